/** How good a dictionary is, beside baselines at the same L0. */
import type { Estimate, Quality, Source } from "../api/records";
import * as format from "../format";

/** What a dictionary is, in a few words: `topk on blocks.14.hook_resid_post, 4,608 features of width 576`. */
export function describeSource({ architecture, hook, d_in, d_sae }: Source): string {
  if (architecture === null || hook === null || d_in === null || d_sae === null) return "not trained yet";
  return `${architecture} on ${hook}, ${format.count(d_sae)} features of width ${format.count(d_in)}`;
}

interface Line {
  name: string;
  hint: string;
  /** Null where it cannot be measured: bare vectors have no next-token loss. */
  own: Estimate | null;
  controls?: Record<string, number>;
  show?: (value: number) => string;
}

function lines(quality: Quality): Line[] {
  return [
    { name: "FVU", hint: "Fraction of variance unexplained", own: quality.fvu, controls: quality.controls },
    {
      name: "CE increase, nats",
      hint: "Next-token loss with the reconstruction spliced in, minus without",
      own: quality.ce_increase,
      controls: quality.control_ce_increase,
    },
    { name: "CE recovered", hint: "Against replacing every activation by the mean", own: quality.ce_recovered },
    { name: "KL recovered", hint: "Against replacing every activation by the mean", own: quality.kl_recovered },
    { name: "L0", hint: "Active features a token", own: quality.l0 },
    { name: "Dead", hint: "Share of features that never fired", own: quality.dead, show: format.percent },
    { name: "Dense", hint: "Share of features that fire on more than a tenth of the tokens", own: quality.dense, show: format.percent },
  ];
}

export function QualityTable({ quality, name }: { quality: Quality; name: string }) {
  const controls = [...new Set([...Object.keys(quality.controls), ...Object.keys(quality.control_ce_increase)])].sort();
  return (
    <table class="quality" data-testid="quality">
      <caption>Held-out quality; baselines at the same L0</caption>
      <thead>
        <tr>
          <td />
          <th scope="col" class="num">
            {name}
          </th>
          {controls.map((control) => (
            <th key={control} scope="col" class="num">
              {control}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {lines(quality).map(({ own, ...line }) => own && <QualityRow key={line.name} line={{ ...line, own }} controls={controls} />)}
      </tbody>
    </table>
  );
}

interface RowProps {
  line: Line & { own: Estimate };
  controls: string[];
}

function QualityRow({ line: { name, hint, own, controls: values, show = format.number }, controls }: RowProps) {
  return (
    <tr>
      <th scope="row" title={hint}>
        {name}
      </th>
      <td class="num" title={`n = ${format.count(own.n)} ${format.interval(own.low, own.high)}`}>
        <b>{show(own.value)}</b>
        {own.low !== null && own.high !== null && own.high > own.low && <small> {format.spread(own.low, own.high)}</small>}
      </td>
      {controls.map((control) => (
        <td key={control} class="num">
          {values?.[control] === undefined ? "" : show(values[control])}
        </td>
      ))}
    </tr>
  );
}
