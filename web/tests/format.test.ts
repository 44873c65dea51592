import { describe, expect, test } from "vitest";
import * as format from "../src/format";

describe("numbers", () => {
  test.each([
    [0.1784, "0.178"],
    [32, "32"],
    [1234.4, "1,234"],
    [-1234.4, "−1,234"],
    [0.000012, "1.2e-5"],
    [-0.5, "−0.5"],
    [0, "0"],
    [null, "–"],
    [undefined, "–"],
  ])("%s is written %s", (value, text) => expect(format.number(value)).toBe(text));

  test.each([
    [0.0027, "0.27 %"],
    [1, "100 %"],
    [0.5, "50 %"],
    [0, "0 %"],
    [1e-9, "<0.0001 %"],
  ])("a share of %s is written %s", (value, text) => expect(format.percent(value)).toBe(text));

  test("a lift carries its sign", () => {
    expect(format.signed(0.214)).toBe("+0.21");
    expect(format.signed(-0.05)).toBe("−0.05");
    expect(format.signed(null)).toBe("–");
  });

  test("an interval with a missing end is not written", () => {
    expect(format.interval(0.15, 0.27)).toBe("[0.15, 0.27]");
    expect(format.interval(-0.049, 0.176, format.score)).toBe("[−0.05, 0.18]");
    expect(format.interval(null, 0.27)).toBe("");
  });

  test("the spread of an interval is half its width", () => expect(format.spread(0.01, 0.0224)).toBe("±0.0062"));

  test("time spans take the unit that fits", () => {
    expect([0.84, 42.4, 200].map(format.duration)).toEqual(["0.8 s", "42 s", "3 min 20 s"]);
  });
});

describe("tokens", () => {
  test("whitespace of a token alone is visible", () => {
    expect([" the", "\n", "\t", ""].map(format.token)).toEqual(["·the", "↵", "→", "∅"]);
  });

  test("a leading space is split off words, not off whitespace", () => {
    expect([" the", "the", "  x", " "].map(format.splitSpace)).toEqual([
      [" ", "the"],
      ["", "the"],
      ["", "  x"],
      ["", " "],
    ]);
  });
});
