import { expect, test } from "vitest";
import { axis, ticks } from "../src/parts/histogram";

test("the axis is logarithmic where all values are positive", () => {
  const place = axis([0.1, 1, 10]);
  expect(place(1)).toBeCloseTo(0.5);
  expect([place(0.01), place(100)]).toEqual([0, 1]);
});

test("the axis is plain where values are signed", () => {
  expect(axis([-10, 0, 10])(5)).toBeCloseTo(0.75);
});

test("ticks are round, within the axis and few", () => {
  expect(ticks(0.3, 40)).toEqual([0.5, 2, 10]);
  expect(ticks(0.001, 1000).length).toBeLessThanOrEqual(5);
  expect(ticks(-10, 10)).toEqual([-10, 10]);
});
