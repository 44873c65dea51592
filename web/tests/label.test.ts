import { expect, test } from "vitest";
import type { Label, Score } from "../src/api/records";
import { isUnproven } from "../src/parts/label";
import { allScores, splitScores } from "../src/parts/scores";

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

const LABEL: Omit<Label, "scores"> = {
  text: "sea",
  input_clause: "sea",
  output_clause: "",
  labeller: "rules",
  predicate: "",
  found: true,
  model: "",
  prompt: "",
  made_by: "",
};
const OWN = [score("purity", null), score("entropy", null)];

test("scores with a lift stand before the others, and the first of the label and of the feature always stands", () => {
  const label = { ...LABEL, scores: [score("auroc", 0.2), score("accuracy", null), score("recall", 0.1)] };
  const [main, others] = splitScores(allScores({ label, scores: OWN }));
  expect(main.map((one) => [one.of, one.score.metric])).toEqual([
    ["label", "auroc"],
    ["label", "recall"],
    ["feature", "purity"],
  ]);
  expect(others.map((one) => [one.of, one.score.metric])).toEqual([
    ["label", "accuracy"],
    ["feature", "entropy"],
  ]);
});

test("a feature without a label has its own scores alone", () => {
  expect(allScores({ label: null, scores: OWN }).map((one) => one.score.metric)).toEqual(["purity", "entropy"]);
  expect(allScores({ label: null, scores: [] })).toEqual([]);
});
