import { expect, test } from "vitest";
import { themed, titleOf } from "../src/parts/figure";

const LAYOUT = { title: { text: "Training" }, width: 900, xaxis: { title: { text: "step" } }, yaxis2: { type: "log" }, showlegend: true };

test("a figure takes the page's colours and size and keeps the rest", () => {
  const own = themed(LAYOUT, (name) => name);
  expect(own).toMatchObject({ showlegend: true, font: { color: "--text" }, xaxis: { title: { text: "step" }, gridcolor: "--line" } });
  expect(own).toMatchObject({ yaxis2: { type: "log", dtick: 1 } });
  expect(Object.keys(own)).not.toContain("width");
  expect(Object.keys(own)).not.toContain("title");
});

test("a title is found in either of plotly's forms", () => {
  expect([titleOf(LAYOUT), titleOf({ title: "Quality" }), titleOf({})]).toEqual(["Training", "Quality", ""]);
});
