/** Activations as shades of a token's background. */

/** Percent of the heat colour for an activation: 0 where silent, else 12 to 100, linear in |value| / scale. */
export function heat(value: number, scale: number): number {
  if (value === 0 || scale <= 0) return 0;
  return Math.round(12 + 88 * Math.min(1, Math.abs(value) / scale));
}

/** The stretch of tokens to show around the peak: at most `before` on its left and `after` on its right. */
export function around(peak: number, length: number, before: number, after: number): { start: number; end: number } {
  return { start: Math.max(0, peak - before), end: Math.min(length, peak + after + 1) };
}
