/** Points on a plane: where they are drawn, which is near, and their colours. Arrays all the way, for a hundred thousand points. */

/** From places to pixels: `left + x * scale`, `top - y * scale`. */
export interface View {
  scale: number;
  left: number;
  top: number;
}

/** Pixels kept free around all points. */
const MARGIN = 12;

/** The view in which all points are seen, both axes alike. */
export function fit(x: readonly number[], y: readonly number[], width: number, height: number): View {
  const [west, east] = ends(x);
  const [south, north] = ends(y);
  const scale = Math.min((width - 2 * MARGIN) / (east - west || 1), (height - 2 * MARGIN) / (north - south || 1));
  return { scale, left: width / 2 - ((west + east) / 2) * scale, top: height / 2 + ((south + north) / 2) * scale };
}

/** Not `Math.min(...values)`: so many arguments overflow the stack. */
function ends(values: readonly number[]): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/** The view nearer by `factor`, with what is at a pixel staying there. */
export function zoom({ scale, left, top }: View, factor: number, px: number, py: number): View {
  return { scale: scale * factor, left: px - (px - left) * factor, top: py - (py - top) * factor };
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

/** Steps of a shade from the smallest to the largest number. */
export const STEPS = 12;

/** Class 0 for points without a number, 1 to `STEPS` for the others from the smallest to the largest; and the two ends. */
export function shades(values: readonly (number | null)[]): { of: number[]; low: number; high: number } {
  const [low, high] = ends(values.filter((value) => value !== null));
  const step = (value: number) => 1 + Math.min(STEPS - 1, Math.floor((STEPS * (value - low)) / (high - low || 1)));
  return { of: values.map((value) => (value === null ? 0 : step(value))), low, high };
}
