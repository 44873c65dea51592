import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

type Rgb = [number, number, number];
type Theme = Record<string, Rgb>;

const css = readFileSync("src/style/theme.css", "utf8");
const [light = "", dark = ""] = css.split("@media");

function colours(block: string): Theme {
  const pairs = [...block.matchAll(/--([\w-]+): #([0-9a-f]{6});/g)];
  const channel = (hex: string, at: number) => parseInt(hex.slice(at, at + 2), 16);
  return Object.fromEntries(pairs.map(([, name, hex = ""]) => [name, [channel(hex, 0), channel(hex, 2), channel(hex, 4)]]));
}

/** WCAG 2.2 relative luminance. */
function luminance(colour: Rgb): number {
  const [r, g, b] = colour.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4)) as Rgb;
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one: Rgb, other: Rgb): number {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b) as [number, number];
  return (high + 0.05) / (low + 0.05);
}

const TEXTS = ["text", "muted", "accent", "second", "third", "warn", "bad"];
const GROUNDS = ["page", "panel", "raised"];
const THEMES: [string, Theme][] = [
  ["light", colours(light)],
  ["dark", colours(dark)],
];

test.each(THEMES)("every text of the %s theme meets AA on every ground", (_, theme) => {
  const weak = TEXTS.flatMap((text) =>
    GROUNDS.filter((ground) => contrast(theme[text]!, theme[ground]!) < 4.5).map((ground) => `${text} on ${ground}`),
  );
  expect(weak).toEqual([]);
});

test.each(THEMES)("tokens of the %s theme can be read at full heat, and so can buttons", (_, theme) => {
  expect(contrast(theme["text"]!, theme["hot"]!)).toBeGreaterThanOrEqual(4.5);
  expect(contrast(theme["text"]!, theme["cool"]!)).toBeGreaterThanOrEqual(4.5);
  expect(contrast(theme["on-accent"]!, theme["accent"]!)).toBeGreaterThanOrEqual(4.5);
});
