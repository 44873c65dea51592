/** Which documents of the corpus fire a feature. */
import { useSignal } from "@preact/signals";
import { getDocuments, type Place } from "../api/client";
import type { Feature, FiringDocuments } from "../api/records";
import * as format from "../format";
import { useLoad } from "./load";
import { Empty, Failure, Loading } from "./states";
import { Tokens } from "./tokens";

/** Asked for when it is opened: not every run keeps postings. */
export function Documents({ place, feature }: { place: Place; feature: Feature }) {
  const open = useSignal(false);
  return (
    <details class="panel documents" data-testid="documents" onToggle={(event) => (open.value = event.currentTarget.open)}>
      <summary>
        <h2>Documents</h2>
      </summary>
      {open.value && <Page place={place} feature={feature} cursor={null} />}
    </details>
  );
}

interface PageProps {
  place: Place;
  feature: Feature;
  cursor: string | null;
}

/** A page of documents, and below it the next one once it is asked for. */
function Page({ place, feature, cursor }: PageProps) {
  const more = useSignal(false);
  const { index } = feature.id;
  const { data, error } = useLoad(`${place.model}/${place.source}/${index}:${cursor}`, (stop) => getDocuments(place, index, cursor, stop));
  if (error) return <Failure error={error} />;
  if (!data) return <Loading what="documents" />;
  return (
    <>
      {cursor === null && <Total found={data} />}
      <ul class="examples">
        {data.items.map(({ key, count, example }) => (
          <li key={key}>
            <Tokens tokens={example.tokens} values={example.values} scale={feature.max} peak={example.peak} />
            <p class="example-meta">
              <b>{format.number(example.values[example.peak])}</b>{" "}
              <span>{count === 1 ? "on 1 token" : `on ${format.count(count)} tokens`}</span>
              <span class="source" title={`document ${example.document}, ${example.split} split`}>
                {key}
              </span>
            </p>
          </li>
        ))}
      </ul>
      {more.value && data.next_cursor !== null && <Page place={place} feature={feature} cursor={data.next_cursor} />}
      {!more.value && data.next_cursor !== null && (
        <button type="button" class="more" onClick={() => (more.value = true)}>
          More documents
        </button>
      )}
    </>
  );
}

function Total({ found: { total, kept } }: { found: FiringDocuments }) {
  if (total === 0) return <Empty>No document fires this feature.</Empty>;
  return (
    <p class="quiet-text">
      It fires in {format.count(total)} of the {format.count(kept)} documents whose activations were kept; the strongest first.
    </p>
  );
}
