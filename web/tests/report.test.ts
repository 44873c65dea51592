import { expect, test } from "vitest";
import { cellText } from "../src/parts/report";

test("a cell reads as a person would write it", () => {
  expect([cellText("sea"), cellText(0.12345), cellText(true), cellText(null), cellText(12345)]).toEqual(["sea", "0.123", "yes", "–", "12,345"]);
});
