/** The numbers of a feature. */
import type { Feature, TokenValue } from "../api/records";
import * as format from "../format";
import { Histogram } from "./histogram";
import { Chip } from "./tokens";

/** How often and how strongly it fires. `marker`: its activation on the user's own text. */
export function Firing({ feature, marker }: { feature: Feature; marker?: number | undefined }) {
  const { density } = feature;
  const often = density.value > 0 ? `1 in ${format.count(Math.max(1, Math.round(1 / density.value)))}` : "never";
  return (
    <section class="panel" aria-labelledby="firing">
      <h2 id="firing">Activations</h2>
      <dl class="facts">
        <dt>Density</dt>
        <dd>
          <b>{format.percent(density.value)}</b>{" "}
          <span class="quiet-text">
            {often}, of {format.count(density.n)} tokens
          </span>
        </dd>
        <dt>Max</dt>
        <dd>
          <b>{format.number(feature.max)}</b>
        </dd>
        <dt>Mean when active</dt>
        <dd>
          <b>{format.number(feature.mean)}</b>
        </dd>
      </dl>
      <Histogram histogram={feature.histogram} marker={marker} />
      {feature.peak_tokens.length > 0 && (
        <p class="peaks">
          <span class="quiet-text">Peaks at </span>
          {feature.peak_tokens.map((peak) => (
            <span key={peak.id + peak.token} title={`${format.count(peak.value)} windows`}>
              <Chip text={peak.token} /> <small>{format.count(peak.value)}</small>{" "}
            </span>
          ))}
        </p>
      )}
    </section>
  );
}

/** Tokens whose logit the feature's direction raises and lowers most. */
export function Logits({ feature }: { feature: Feature }) {
  const scale = Math.max(1e-9, ...[...feature.top_logits, ...feature.bottom_logits].map((one) => Math.abs(one.value)));
  return (
    <section class="panel" aria-labelledby="logits">
      <h2 id="logits">Logit lens</h2>
      <div class="logits">
        <LogitList title="Promotes" tokens={feature.top_logits} scale={scale} />
        <LogitList title="Suppresses" tokens={feature.bottom_logits} scale={scale} />
      </div>
    </section>
  );
}

function LogitList({ title, tokens, scale }: { title: string; tokens: readonly TokenValue[]; scale: number }) {
  return (
    <table class="logit-list">
      <caption>{title}</caption>
      <tbody>
        {tokens.map(({ token, id, value }) => (
          <tr key={id + token}>
            <td>
              <Chip text={token} />
            </td>
            <td class={value < 0 ? "num bar-cool" : "num bar-hot"} style={{ "--share": `${(Math.abs(value) / scale) * 100}%` }}>
              {format.signed(value)}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
