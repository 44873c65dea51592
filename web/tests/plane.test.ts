import { describe, expect, test } from "vitest";
import { beside, classes, fit, nearest, reveal, shades, STEPS, zoom } from "../src/parts/plane";

const X = [0, 4, 0, -4, 0];
const Y = [0, 0, 3, 0, -3];
const VIEW = fit(X, Y, 824, 624);

describe("a view", () => {
  test("shows all points as large as they fit, the middle in the middle", () => {
    expect(VIEW).toEqual({ scale: 100, left: 412, top: 312 });
  });

  test("is not crowded by a few points far out", () => {
    const many = Array.from({ length: 2000 }, (_, place) => place / 2000);
    expect(fit([...many, 900], [...many, -900], 824, 824).scale).toBeGreaterThan(700);
  });

  test("comes nearer with what is under the pointer staying there", () => {
    const near = zoom(VIEW, 2, 812, 312); // point 1
    expect(near.left + X[1]! * near.scale).toBe(812);
    expect(near.scale).toBe(200);
  });

  test("moves to a place only where it is not seen", () => {
    expect(reveal(VIEW, 4, 0, 824, 624)).toBe(VIEW);
    const moved = reveal(VIEW, 40, 0, 824, 624);
    expect([moved.left + 40 * moved.scale, moved.top]).toEqual([412, 312]);
  });
});

test("the nearest point is found by pixels, and none out of reach", () => {
  expect(nearest(X, Y, VIEW, 815, 310, 12)).toBe(1);
  expect(nearest(X, Y, VIEW, 412, 20, 12)).toBe(2);
  expect(nearest(X, Y, VIEW, 600, 150, 12)).toBeNull();
});

test("arrows lead to the closest point on that side, and nowhere where there is none", () => {
  expect([beside(X, Y, 0, 1, 0), beside(X, Y, 0, -1, 0), beside(X, Y, 0, 0, 1), beside(X, Y, 0, 0, -1)]).toEqual([1, 3, 2, 4]);
  expect(beside(X, Y, 1, 1, 0)).toBe(1);
});

test("points are sorted by class, in their order within each", () => {
  const { order, begin } = classes([2, 0, 2, 1], 3);
  expect([...order]).toEqual([1, 3, 0, 2]);
  expect(begin).toEqual([0, 1, 2, 4]);
});

describe("shades", () => {
  test("go by rank, whatever the scale, and leave out what has no number", () => {
    const { of, marks } = shades([null, 1e-6, 0.5, 1e-3]);
    expect(of[0]).toBe(0);
    expect(of[1]! < of[3]! && of[3]! < of[2]!).toBe(true);
    expect(Math.max(...of)).toBe(STEPS);
    expect(marks).toEqual([1e-6, 1e-3, 0.5]);
  });

  test("are the same for equal numbers, and nothing without any", () => {
    expect(new Set(shades([3, 3, 3]).of).size).toBe(1);
    expect(shades([null, null])).toEqual({ of: [0, 0], marks: [] });
  });

  test("of a hundred thousand points take no time", () => {
    const values = Array.from({ length: 131_072 }, (_, place) => Math.sin(place));
    const counts = new Array<number>(STEPS + 1).fill(0);
    for (const step of shades(values).of) counts[step]!++;
    expect(counts[0]).toBe(0);
    expect(Math.max(...counts) / Math.min(...counts.slice(1))).toBeLessThan(1.1);
  });
});
