import { expect, test } from "vitest";
import { colouring } from "../src/parts/map_colours";

const MAP = {
  x: [0, 1, 2],
  y: [0, 1, 2],
  density: [0, 0.001, 0.1],
  score: [null, 0.7, null],
  tag: [1, -1, 0],
  tags: ["dead", "token"],
};

const names = (by: "density" | "score" | "tag") => colouring(MAP, by).legend.map(({ name }) => name);

test("features that never fire have a colour of their own, beside the range of the others", () => {
  expect(names("density")).toEqual(["lowest 0.1 %", "median 10 %", "highest 10 %", "never fires"]);
  expect([...colouring(MAP, "density").classes.order]).toEqual([0, 1, 2]);
});

test("features without a score are said to have none", () => {
  expect(names("score")).toEqual(["lowest 0.70", "median 0.70", "highest 0.70", "no score"]);
  expect(colouring(MAP, "score").classes.begin[1]).toBe(2);
});

test("every tag has a colour, and so has a feature without one", () => {
  const { classes, colours } = colouring(MAP, "tag");
  expect(names("tag")).toEqual(["dead", "token", "no tag"]);
  expect([...classes.order]).toEqual([1, 2, 0]);
  expect(new Set(colours).size).toBe(3);
});
