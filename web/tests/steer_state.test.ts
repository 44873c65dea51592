import { describe, expect, test } from "vitest";
import { firstDifference, freshChange, readSteer, sliderRange, writeSteer } from "../src/state/steer";

describe("the state of the steering page", () => {
  test("a bare feature is offered with a strength that shows", () => {
    expect(readSteer("feature=12").interventions).toEqual([freshChange(12)]);
  });

  test.each([
    "feature=12:add:2.5:max_act&feature=40:ablate&feature=7:scale:0&feature=3:clamp:-80:raw",
    "feature=1:add:2:max_act&prompt=I+think%3A&chat=true&max_tokens=20&temperature=0.7&seed=3&edit_prompt=false",
  ])("survives the address: %s", (query) => expect(writeSteer(readSteer(query)).slice(1)).toBe(query.replaceAll("%3A", ":")));

  test("keeps numbers within what the API takes and drops what is no feature", () => {
    const state = readSteer("feature=x&feature=-1&feature=&max_tokens=9999&temperature=-3&seed=1.6");
    expect(state).toMatchObject({ interventions: [], max_tokens: 512, temperature: 0, seed: 2 });
  });
});

describe("the slider", () => {
  test("has the unit's range", () => {
    expect(sliderRange("add", "max_act", 20)).toEqual({ low: -10, high: 10, step: 0.1 });
    expect(sliderRange("add", "raw", 20)).toEqual({ low: -200, high: 200, step: 2 });
    expect(sliderRange("scale", "max_act", 20).low).toBe(0);
  });
});

describe("the first difference", () => {
  test("is an index of a token that both texts have", () => {
    expect(firstDifference(["a", "b", "c"], ["a", "x"])).toBe(1);
    expect(firstDifference(["a", "b"], ["a"])).toBeNull();
    expect(firstDifference([], [])).toBeNull();
  });
});
