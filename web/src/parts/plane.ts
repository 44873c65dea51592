/** Points on a plane: where they are drawn, which is near, and their colours. Arrays all the way, for a hundred thousand points. */

/** From places to pixels: `left + x * scale`, `top - y * scale`. */
export interface View {
  scale: number;
  left: number;
  top: number;
}

/** Pixels kept free around all points. */
const MARGIN = 12;

/** Share of the points that may lie outside of the first view, at either end of an axis: a few far ones must not crowd all others. */
const OUTSIDE = 0.005;

/** The view in which almost all points are seen, both axes alike. */
export function fit(x: readonly number[], y: readonly number[], width: number, height: number): View {
  const [west, east] = middle(x);
  const [south, north] = middle(y);
  const scale = Math.min((width - 2 * MARGIN) / (east - west || 1), (height - 2 * MARGIN) / (north - south || 1));
  return { scale, left: width / 2 - ((west + east) / 2) * scale, top: height / 2 + ((south + north) / 2) * scale };
}

function middle(values: readonly number[]): [number, number] {
  const sorted = Float64Array.from(values).sort();
  const cut = Math.floor(OUTSIDE * sorted.length);
  return [sorted[cut] ?? 0, sorted[sorted.length - 1 - cut] ?? 0];
}

/** The view nearer by `factor`, with what is at a pixel staying there. */
export function zoom({ scale, left, top }: View, factor: number, px: number, py: number): View {
  return { scale: scale * factor, left: px - (px - left) * factor, top: py - (py - top) * factor };
}

/** The view moved so that a place is in the middle, where it was not seen; else as it is. */
export function reveal(view: View, x: number, y: number, width: number, height: number): View {
  const [px, py] = [view.left + x * view.scale, view.top - y * view.scale];
  if (px >= 0 && px <= width && py >= 0 && py <= height) return view;
  return { scale: view.scale, left: view.left + width / 2 - px, top: view.top + height / 2 - py };
}

/** The point that is drawn closest to a pixel, within `reach` pixels; null where there is none. */
export function nearest(x: readonly number[], y: readonly number[], view: View, px: number, py: number, reach: number): number | null {
  let best = reach * reach;
  let found: number | null = null;
  for (let index = 0; index < x.length; index++) {
    const dx = view.left + x[index]! * view.scale - px;
    const dy = view.top - y[index]! * view.scale - py;
    const far = dx * dx + dy * dy;
    if (far <= best) {
      best = far;
      found = index;
    }
  }
  return found;
}

/** The closest point to the right (1, 0), left (-1, 0), above (0, 1) or below (0, -1) of another; itself where there is none. */
export function beside(x: readonly number[], y: readonly number[], from: number, right: number, up: number): number {
  let best = Infinity;
  let found = from;
  for (let index = 0; index < x.length; index++) {
    const dx = x[index]! - x[from]!;
    const dy = y[index]! - y[from]!;
    const along = dx * right + dy * up;
    const aside = Math.abs(dx * up) + Math.abs(dy * right);
    const far = dx * dx + dy * dy;
    if (along > aside && far < best) {
      best = far;
      found = index;
    }
  }
  return found;
}

/** Points sorted by colour: class `c` holds `order[begin[c]]` to `order[begin[c + 1]]`, and is drawn before the next. */
export interface Classes {
  order: Uint32Array;
  begin: number[];
}

/** Points by the number of their class. */
export function classes(of: readonly number[], count: number): Classes {
  const begin = new Array<number>(count + 1).fill(0);
  for (const number of of) begin[number + 1]!++;
  for (let number = 0; number < count; number++) begin[number + 1]! += begin[number]!;
  const next = begin.slice();
  const order = new Uint32Array(of.length);
  of.forEach((number, index) => (order[next[number]!++] = index));
  return { order, begin };
}

/** Shades from the smallest to the largest number, each for as many points. */
export const STEPS = 12;

/** Class 0 for points without a number, 1 to `STEPS` for the others by rank; and the smallest, the middle and the largest number. */
export function shades(values: readonly (number | null)[]): { of: number[]; marks: number[] } {
  const sorted = Float64Array.from(values.filter((value) => value !== null)).sort();
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
  const begins = Array.from({ length: STEPS }, (_, step) => at(step / STEPS));
  const step = (value: number) => Math.max(1, begins.filter((begin) => begin <= value).length);
  return { of: values.map((value) => (value === null ? 0 : step(value))), marks: sorted.length > 0 ? [at(0), at(0.5), at(1)] : [] };
}
