/** Numbers, tokens and intervals as a person reads them. */

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A number with three significant digits: `0.178`, `32`, `1,234`, `1.2e-5`; a dash where there is none. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  return (value < 0 ? "−" : "") + magnitude(Math.abs(value));
}

function magnitude(size: number): string {
  if (size >= 1000) return GROUPED.format(size);
  if (size > 0 && size < 1e-3) return size.toExponential(1);
  return String(Number(size.toPrecision(3)));
}

/** A whole number with separators: `684,123`. */
export const count = (value: number) => GROUPED.format(value);

/** A share as a percentage with two significant digits: `0.27 %`. */
export function percent(share: number): string {
  if (share === 0) return "0 %";
  if (share < 1e-6) return "<0.0001 %";
  return `${Number((share * 100).toPrecision(2))} %`;
}

/** A number with two decimals: `0.83`, for scores, whose columns line up. */
export function score(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  return (value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
}

/** A score with its sign: `+0.21`, `−0.05`. */
export function signed(value: number | null | undefined): string {
  return value === null || value === undefined || value < 0 ? score(value) : `+${score(value)}`;
}

/** An interval: `[0.15, 0.27]`; empty where an end is missing. */
export function interval(low: number | null | undefined, high: number | null | undefined, show = number): string {
  if (low === null || low === undefined || high === null || high === undefined) return "";
  return `[${show(low)}, ${show(high)}]`;
}

/** Half the width of an interval, two significant digits: `±0.0062`. */
export const spread = (low: number, high: number) => `±${Number(((high - low) / 2).toPrecision(2))}`;

/** A token standing alone, its whitespace made visible: `·the`, `↵`. */
export const token = (text: string) => text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "→") || "∅";

/** A token within running text: spaces stay, line breaks become a sign. */
export const inline = (text: string) => text.replaceAll("\n", "↵").replaceAll("\t", " ");

/** A token's leading space and the rest of it: a shade on the rest alone leaves nothing behind at a line's end. */
export function splitSpace(text: string): [string, string] {
  return /^ \S/.test(text) ? [" ", text.slice(1)] : ["", text];
}

/** A time span: `0.8 s`, `42 s`, `3 min 20 s`. */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
