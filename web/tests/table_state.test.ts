import { describe, expect, test } from "vitest";
import { isByMeaning, isFiltered, readTable, sortBy, tableQuery, writeTable } from "../src/state/table";

describe("the state of the table", () => {
  test("with nothing set has an empty query", () => expect(writeTable(readTable(""))).toBe(""));

  test.each([
    "sort=lift&descending=true",
    "q=oil+and+gas&dead=false&labelled=true&min_density=0.001&min_lift=-0.5",
    "q=things+that+grow&mode=meaning",
    "sort=max&text=The+king+said%3A+%26",
  ])("survives the address: %s", (query) => expect(writeTable(readTable(query))).toBe(`?${query}`));

  test("ignores what makes no sense", () => {
    const state = readTable("?sort=colour&dead=perhaps&min_lift=high&min_density=");
    expect(state).toEqual(readTable(""));
    expect(isFiltered(state)).toBe(false);
  });

  test("asks the API for the same", () => {
    expect(tableQuery(readTable("sort=lift&descending=true&min_lift=0"))).toMatchObject({ sort: "lift", descending: true, min_lift: 0 });
  });

  test("lists by meaning only what was asked for", () => {
    expect(["q=sea&mode=meaning", "mode=meaning", "q=sea", "q=sea&mode=sense"].map((query) => isByMeaning(readTable(query)))).toEqual([
      true,
      false,
      false,
      false,
    ]);
    expect(tableQuery(readTable("q=sea&mode=meaning"))).not.toHaveProperty("mode");
  });

  test("sorts by the strongest first and turns round at the second click; the index counts up first", () => {
    const once = sortBy(readTable(""), "lift");
    expect([once.sort, once.descending]).toEqual(["lift", true]);
    expect(sortBy(once, "lift").descending).toBe(false);
    expect(sortBy(once, "index").descending).toBe(false);
  });
});
