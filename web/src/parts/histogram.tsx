/** Counts of activations on a logarithmic axis. */
import type { Histogram as Counts } from "../api/records";
import * as format from "../format";

const WIDTH = 320;
const HEIGHT = 110;
const FLOOR = 88;

/** Where a value stands on the axis, 0 to 1: by its logarithm, or by itself where the axis is not positive throughout. */
export function axis(edges: readonly number[]): (value: number) => number {
  const low = edges[0] ?? 0;
  const high = edges.at(-1) ?? 1;
  const warp = low > 0 ? Math.log : (value: number) => value;
  const span = warp(high) - warp(low);
  return (value) => (span > 0 ? Math.min(1, Math.max(0, (warp(value) - warp(low)) / span)) : 0);
}

/** Round values within an axis: 1, 2 and 5 times powers of ten, thinned to at most `most`. */
export function ticks(low: number, high: number, most = 5): number[] {
  if (!(low > 0) || !(high > low)) return [low, high];
  const all: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const lead of [1, 2, 5]) all.push(Number(`${lead}e${power}`));
  }
  const inside = all.filter((tick) => tick >= low && tick <= high);
  const step = Math.ceil(inside.length / most);
  return inside.filter((_, index) => index % step === 0);
}

/** `marker`: an activation to mark on the axis, such as that of a text of the user. */
export function Histogram({ histogram, marker }: { histogram: Counts; marker?: number | undefined }) {
  const { edges, counts } = histogram;
  const total = counts.reduce((sum, one) => sum + one, 0);
  if (total === 0) return <p class="quiet-text">No activation was seen.</p>;
  const [low, high] = [edges[0] ?? 0, edges.at(-1) ?? 0];
  const place = axis(edges);
  const x = (value: number) => place(value) * WIDTH;
  const top = Math.max(...counts);
  const words = `Histogram of ${format.count(total)} active tokens by activation, from ${format.number(low)} to ${format.number(high)}, logarithmic axis`;
  return (
    <svg class="histogram" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={words} data-testid="histogram">
      {counts.map((one, bin) => {
        const [left, right] = [x(edges[bin] ?? 0), x(edges[bin + 1] ?? 0)];
        const height = (one / top) * (FLOOR - 4);
        return (
          <rect key={bin} x={left} y={FLOOR - height} width={Math.max(0.5, right - left - 1)} height={height}>
            <title>{`${format.number(edges[bin])} to ${format.number(edges[bin + 1])}: ${format.count(one)} tokens`}</title>
          </rect>
        );
      })}
      <line class="axis" x1={0} x2={WIDTH} y1={FLOOR} y2={FLOOR} />
      {ticks(low, high).map((tick) => (
        <text key={tick} x={Math.min(WIDTH - 10, Math.max(8, x(tick)))} y={HEIGHT - 6}>
          {format.number(tick)}
        </text>
      ))}
      {marker !== undefined && marker !== 0 && (
        <line class="marker" x1={x(marker)} x2={x(marker)} y1={0} y2={FLOOR}>
          <title>{`your text: ${format.number(marker)}`}</title>
        </line>
      )}
    </svg>
  );
}
