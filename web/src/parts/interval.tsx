/** A number drawn with its interval and its null. */

interface Props {
  value: number;
  low: number | null;
  high: number | null;
  /** What luck gives; a dashed line. */
  chance: number | null;
}

/** On an axis from 0 to 1; nothing is drawn where a number lies outside. What it shows stands beside it in words. */
export function IntervalPlot({ value, low, high, chance }: Props) {
  if (![value, low, high, chance].every((one) => one === null || (one >= 0 && one <= 1))) return null;
  const x = (share: number) => 4 + 112 * share;
  return (
    <svg class="interval" viewBox="0 0 120 18" aria-hidden="true">
      <line class="axis" x1={x(0)} x2={x(1)} y1={9} y2={9} />
      {chance !== null && <line class="null" x1={x(chance)} x2={x(chance)} y1={1} y2={17} />}
      {low !== null && high !== null && <line class="span" x1={x(low)} x2={x(high)} y1={9} y2={9} />}
      <circle cx={x(value)} cy={9} r={4} />
    </svg>
  );
}
