/** What the points of the map are coloured by. */
import type { FeatureMap } from "../api/records";
import * as format from "../format";
import { type Classes, classes, shades, STEPS } from "./plane";

export const COLOURS = ["density", "score", "tag"] as const;
export type Colour = (typeof COLOURS)[number];

export interface Colouring {
  classes: Classes;
  /** Of each class, as CSS. */
  colours: string[];
  legend: { name: string; colour: string }[];
}

const NONE = "var(--line)";
/** Okabe and Ito's, as in the figures (saelab/figures.py), and two more. */
const KINDS = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7a5cc7"];

const shade = (step: number) => `color-mix(in oklab, var(--second) ${Math.round((100 * (step - 1)) / (STEPS - 1))}%, var(--cool))`;

/** The colours of the points: density on a logarithmic scale, score as it is, or a colour for each tag. */
export function colouring({ density, score, tag, tags }: FeatureMap, by: Colour): Colouring {
  if (by === "tag") return byTag(tag, tags);
  const values = by === "score" ? score : density.map((share) => (share > 0 ? Math.log10(share) : null));
  const { of, low, high } = shades(values);
  const show = (value: number) => (by === "score" ? format.score(value) : format.percent(10 ** value));
  const missing = of.includes(0) ? [{ name: by === "score" ? "no score" : "never fires", colour: NONE }] : [];
  const steps = Array.from({ length: STEPS }, (_, place) => shade(place + 1));
  const ends = of.some((number) => number > 0) ? [low, (low + high) / 2, high] : [];
  return {
    classes: classes(of, STEPS + 1),
    colours: [NONE, ...steps],
    legend: [...ends.map((value, place) => ({ name: show(value), colour: shade(1 + (place * (STEPS - 1)) / 2) })), ...missing],
  };
}

function byTag(tag: readonly number[], tags: readonly string[]): Colouring {
  const kinds = tags.map((name, place) => ({ name, colour: KINDS[place % KINDS.length] ?? NONE }));
  return {
    classes: classes(
      tag.map((place) => place + 1),
      tags.length + 1,
    ),
    colours: [NONE, ...kinds.map(({ colour }) => colour)],
    legend: [...kinds, { name: "no tag", colour: NONE }],
  };
}
