import { expect, test } from "vitest";
import type { Score } from "../src/api/records";
import { isUnproven, splitScores } from "../src/parts/label";

const score = (metric: string, lift: number | null): Score => ({
  scorer: "rule_detection",
  metric,
  value: 0.7,
  low: null,
  high: null,
  n: 60,
  null: null,
  lift,
  lift_low: lift,
  lift_high: lift,
  insufficient: false,
  failed: null,
  seed: 0,
  failures: 0,
  model: "",
  prompt: "",
  negatives: [],
  made_by: "",
});

test("a label is unproven where its lift may be nothing, and not where it was never measured", () => {
  expect([-0.1, 0, 0.1, null].map((lift_low) => isUnproven({ lift_low }))).toEqual([true, true, false, false]);
});

test("scores with a lift stand before the others, and the first always stands", () => {
  const [main, others] = splitScores([score("auroc", 0.2), score("accuracy", null), score("recall", 0.1)]);
  expect(main.map((one) => one.metric)).toEqual(["auroc", "recall"]);
  expect(others.map((one) => one.metric)).toEqual(["accuracy"]);
  expect(splitScores([score("accuracy", null)])[0]).toHaveLength(1);
});
