/** The features that fire on a text of the user. */
import { useSignal } from "@preact/signals";
import { type Place, readText } from "../api/client";
import type { TokenActivations } from "../api/records";
import * as format from "../format";
import { featureLink } from "../links";
import { useLoad } from "./load";
import { Empty, Failure, Loading } from "./states";
import { Tokens } from "./tokens";

const TOP = 30;

interface Props {
  place: Place;
  text: string;
  onText: (text: string) => void;
}

export function TextSearch({ place, text, onText }: Props) {
  const typed = useSignal(text);
  const key = text ? `${place.model}/${place.source}:${text}` : null;
  const { data, error, loading } = useLoad(key, (stop) => readText(place, { text, top: TOP }, stop));
  const submit = (event: Event) => {
    event.preventDefault();
    onText(typed.value.trim());
  };
  const clear = () => {
    typed.value = "";
    onText("");
  };
  return (
    <section aria-label="Features of a text">
      <form class="text-search" onSubmit={submit}>
        <label class="field grow">
          <span>Features that fire on a text</span>
          <input
            type="text"
            placeholder="Type a sentence"
            value={typed.value}
            onInput={(event) => (typed.value = event.currentTarget.value)}
          />
        </label>
        <button type="submit" disabled={!typed.value.trim()}>
          Find
        </button>
        {text && (
          <button type="button" class="quiet" onClick={clear}>
            Back to the table
          </button>
        )}
      </form>
      {error && <Failure error={error} />}
      {text && loading && <Loading what="features of the text" />}
      {text && data && <Found place={place} found={data} />}
    </section>
  );
}

function Found({ place, found }: { place: Place; found: TokenActivations }) {
  if (found.features.length === 0) return <Empty>No feature fires on this text.</Empty>;
  return (
    <>
      <p class="quiet-text found-head">
        The {found.features.length} strongest features. The shade is relative to each feature's own maximum on this text.
      </p>
      <ol class="found" data-testid="text-features">
        {found.features.map(({ index, label, max, values }) => (
          <li key={index}>
            <a href={featureLink(place, index)}>
              <span class="quiet-text">#{index}</span> {label ?? "not labelled"}
            </a>
            <span class="num" title="Largest activation on the text">
              {format.number(max)}
            </span>
            <Tokens tokens={found.tokens} values={values} counted={found.counted} scale={max} />
          </li>
        ))}
      </ol>
    </>
  );
}
