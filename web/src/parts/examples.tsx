/** Examples of a feature by bands of its strength. */
import { useSignal } from "@preact/signals";
import type { Band, Example } from "../api/records";
import * as format from "../format";
import { around } from "../heat";
import { Empty } from "./states";
import { Tokens } from "./tokens";

/** `max`: the feature's largest activation, which gets the full colour in every band. */
export function Examples({ bands, max }: { bands: readonly Band[]; max: number }) {
  const full = useSignal(false);
  return (
    <section class="panel" aria-labelledby="examples" data-testid="examples">
      <div class="panel-head">
        <h2 id="examples">Examples</h2>
        <label class="check">
          <input type="checkbox" checked={full.value} onChange={() => (full.value = !full.value)} /> whole windows
        </label>
      </div>
      {bands.length === 0 && <Empty>No example: this feature never fired on the corpus.</Empty>}
      {bands.map((band) => (
        <section key={band.name} class="band" aria-label={`Band ${band.name}`}>
          <h3>
            {band.name}
            <span class="quiet-text">
              {" "}
              {format.percent(band.share)} of its windows, activation {format.number(band.low)} to {format.number(band.high)}
            </span>
          </h3>
          <ul class="examples">
            {band.examples.map((example) => (
              <ExampleLine key={`${example.document}:${example.position}`} example={example} max={max} full={full.value} />
            ))}
          </ul>
        </section>
      ))}
    </section>
  );
}

function ExampleLine({ example, max, full }: { example: Example; max: number; full: boolean }) {
  const { tokens, values, peak } = example;
  const pointed = useSignal<number | null>(null);
  const at = pointed.value ?? peak;
  return (
    <li>
      <Tokens
        tokens={tokens}
        values={values}
        scale={max}
        peak={peak}
        {...(full ? {} : { range: around(peak, tokens.length, 20, 10) })}
        onPoint={(index) => (pointed.value = index)}
      />
      <p class="example-meta">
        <b>{format.number(values[at])}</b> <span>{format.token(tokens[at] ?? "")}</span>
        <span class="source" title={`document ${example.document}, token ${example.position + at}`}>
          {example.domain}
        </span>
      </p>
    </li>
  );
}
