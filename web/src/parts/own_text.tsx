/** A text of the user, read by one feature while it is typed. */
import { type Signal, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { type Place, readText } from "../api/client";
import type { Feature } from "../api/records";
import * as format from "../format";
import { useLoad, useRested } from "./load";
import { Failure } from "./states";
import { Tokens } from "./tokens";

/** `reached` is told the feature's largest activation on the text. */
export function OwnText({ place, feature, reached }: { place: Place; feature: Feature; reached: Signal<number> }) {
  const text = useSignal("");
  const rested = useRested(text.value, 250);
  const index = feature.id.index;
  const key = rested.trim() ? `${place.model}/${place.source}/${index}:${rested}` : null;
  const { data, error, loading } = useLoad(key, (stop) => readText(place, { text: rested, features: [index] }, stop));
  const found = data?.features[0];
  const max = found?.max ?? 0;
  useEffect(() => void (reached.value = max), [max]);
  return (
    <section class="panel" aria-labelledby="own-text" data-testid="own-text">
      <h2 id="own-text">Your text</h2>
      <textarea
        rows={2}
        data-search
        aria-label="A text to read with this feature"
        placeholder="Type a text to see where this feature fires"
        value={text.value}
        onInput={(event) => (text.value = event.currentTarget.value)}
      />
      <div aria-live="polite" aria-busy={loading}>
        {error && <Failure error={error} />}
        {data && found && (
          <>
            <Tokens tokens={data.tokens} values={found.values} counted={data.counted} scale={Math.max(feature.max, max)} />
            <p class="quiet-text" data-testid="own-text-max">
              {max === 0 ? "It does not fire on this text." : `Largest activation ${format.number(max)}${ofMax(max, feature.max)}.`}
            </p>
          </>
        )}
      </div>
    </section>
  );
}

const ofMax = (value: number, max: number) => (max > 0 ? `, ${format.percent(value / max)} of its maximum on the corpus` : "");
