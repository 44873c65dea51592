import { expect, test } from "vitest";
import { around, heat } from "../src/heat";

test("silence has no heat, the maximum has all, the faintest activation can still be seen", () => {
  expect([heat(0, 10), heat(10, 10), heat(0.001, 10)]).toEqual([0, 100, 12]);
});

test("heat grows with the size of the activation, whatever its sign", () => {
  expect(heat(-5, 10)).toBe(heat(5, 10));
  expect(heat(2, 10)).toBeLessThan(heat(3, 10));
});

test("heat stays within its ends for a text stronger than the corpus and for a dead feature", () => {
  expect([heat(50, 10), heat(5, 0)]).toEqual([100, 0]);
});

test("a snippet stays within its window", () => {
  expect(around(2, 50, 14, 8)).toEqual({ start: 0, end: 11 });
  expect(around(48, 50, 14, 8)).toEqual({ start: 34, end: 50 });
});
