/** Adds a feature to the changes, by its number or by words of its label. */
import { useSignal } from "@preact/signals";
import { getFeatures, type Place } from "../api/client";
import { useLoad, useRested } from "./load";
import { Empty, Failure } from "./states";

export function AddFeature({ place, onAdd }: { place: Place; onAdd: (feature: number) => void }) {
  const typed = useSignal("");
  const words = useRested(typed.value.trim(), 250);
  const isNumber = /^\d+$/.test(typed.value.trim());
  const key = words && !/^\d+$/.test(words) ? `${place.model}/${place.source}:${words}` : null;
  const { data, error } = useLoad(key, (stop) => getFeatures(place, { q: words, limit: 8 }, stop));
  const add = (feature: number) => {
    typed.value = "";
    onAdd(feature);
  };
  const submit = (event: Event) => {
    event.preventDefault();
    if (isNumber) add(Number(typed.value));
  };
  return (
    <form class="add-feature" onSubmit={submit}>
      <label class="field grow">
        <span>Add a feature by number or words of its label</span>
        <input type="text" data-search value={typed.value} onInput={(event) => (typed.value = event.currentTarget.value)} />
      </label>
      <button type="submit" disabled={!isNumber}>
        Add
      </button>
      {error && <Failure error={error} />}
      {typed.value && data?.items.length === 0 && <Empty>No label holds these words.</Empty>}
      {typed.value && data && data.items.length > 0 && (
        <ul class="hits">
          {data.items.map(({ index, label }) => (
            <li key={index}>
              <button type="button" class="quiet" onClick={() => add(index)}>
                #{index} {label ?? "not labelled"}
              </button>
            </li>
          ))}
        </ul>
      )}
    </form>
  );
}
