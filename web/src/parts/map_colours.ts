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

const NONE = "color-mix(in oklab, var(--muted) 45%, var(--panel))";
/** Okabe and Ito's, as in the figures (saelab/figures.py), and two more. */
const KINDS = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7a5cc7"];

const shade = (step: number) => `color-mix(in oklch, var(--second) ${Math.round((100 * (step - 1)) / (STEPS - 1))}%, var(--cool))`;

/** The colours of the points: a shade by the rank of their number, or a colour for each tag. */
export function colouring({ density, score, tag, tags }: FeatureMap, by: Colour): Colouring {
  if (by === "tag") return byTag(tag, tags);
  const { of, marks } = shades(by === "score" ? score : density.map((share) => (share > 0 ? share : null)));
  const names = ["lowest", "median", "highest"];
  const show = by === "score" ? format.score : format.percent;
  const missing = of.includes(0) ? [{ name: by === "score" ? "no score" : "never fires", colour: NONE }] : [];
  const steps = Array.from({ length: STEPS }, (_, place) => shade(place + 1));
  return {
    classes: classes(of, STEPS + 1),
    colours: [NONE, ...steps],
    legend: [
      ...marks.map((value, place) => ({ name: `${names[place]} ${show(value)}`, colour: shade(1 + (place * (STEPS - 1)) / 2) })),
      ...missing,
    ],
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
