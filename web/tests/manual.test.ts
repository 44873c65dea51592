import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { readManual } from "../src/parts/manual";

const CHAPTERS = readManual(readFileSync("../docs/evaluation.md", "utf8"));

test("every analysis of the manual says what its numbers do not tell", () => {
  expect(CHAPTERS.size).toBeGreaterThanOrEqual(8);
  for (const [name, { caveat, table }] of CHAPTERS) {
    const told = caveat || table[0]?.includes("does not tell") || name === "recovery";
    expect(told, name).toBeTruthy();
  }
});

test("a caveat is its paragraph in one line, from where it begins", () => {
  expect(CHAPTERS.get("senses")?.caveat).toBe("Senses. Domains stand in for them.");
  expect(CHAPTERS.get("absorption")?.caveat).toMatch(/^Absorption from mere cooperation\..+the one to read\.$/);
});

test("a table has its heads first, all rows alike, and bars within a cell", () => {
  const { table } = CHAPTERS.get("core")!;
  expect(table[0]).toEqual(["number", "formula", "does not tell"]);
  expect(new Set(table.map((row) => row.length))).toEqual(new Set([3]));
  expect(table[1]?.[1]).toContain("|x - x̂|²");
});
