/** The features of a dictionary as a sortable table. */
import { useEffect, useRef } from "preact/hooks";
import { type Place, searchMeaning } from "../api/client";
import type { FeatureRow } from "../api/records";
import * as format from "../format";
import { featureLink } from "../links";
import { type Sort, sortBy, type TableState } from "../state/table";
import { isUnproven } from "./label";
import { useLoad } from "./load";
import type { Rows } from "./rows";
import { Empty, Failure, Loading } from "./states";
import { Chip } from "./tokens";

const COLUMNS: { sort?: Sort; title: string; hint: string }[] = [
  { sort: "index", title: "#", hint: "Row of the dictionary's decoder" },
  { title: "Label", hint: "What the feature fires on; grey where its lift may be chance" },
  { sort: "score", title: "Score", hint: "Held-out score of the label" },
  { sort: "lift", title: "Lift", hint: "Score minus the score with labels of other features" },
  { sort: "density", title: "Density", hint: "Share of tokens on which it fires" },
  { sort: "max", title: "Max", hint: "Largest activation on the corpus" },
  { title: "Top tokens", hint: "Tokens on which it fires most" },
];

/** Features that a search by meaning lists. */
const HITS = 50;

interface Props {
  place: Place;
  state: TableState;
  rows: Rows;
  onState: (state: TableState) => void;
  onMore: () => void;
}

export function FeatureTable({ place, state, rows, onState, onMore }: Props) {
  const { items, loading, cursor } = rows;
  return (
    <>
      <table class="features" aria-busy={loading} data-testid="features">
        <thead>
          <tr>
            {COLUMNS.map(({ sort, title, hint }) => (
              <th key={title} scope="col" title={hint} class={sort && sort !== "index" ? "num" : ""} aria-sort={ariaSort(state, sort)}>
                {sort ? <SortButton sort={sort} title={title} state={state} onState={onState} /> : title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {items.map((row) => (
            <Row key={row.index} place={place} row={row} />
          ))}
        </tbody>
      </table>
      {!loading && items.length === 0 && <Empty>No feature matches these filters.</Empty>}
      {loading && <Loading what="features" />}
      {cursor !== null && !loading && <More onMore={onMore} />}
    </>
  );
}

const ROW_HEADS = COLUMNS.map(({ title, sort, hint }) => ({ title, hint, number: sort !== undefined && sort !== "index" }));
const MEANING_HEADS = ROW_HEADS.toSpliced(2, 0, { title: "Similarity", hint: "Cosine of the label's meaning and that of the words", number: true });

/** Features whose labels mean something alike, closest first, in place of the table. */
export function MeaningTable({ place, q }: { place: Place; q: string }) {
  const { data, error, loading } = useLoad(`${place.model}/${place.source}:${q}`, (stop) => searchMeaning(place, q, HITS, stop));
  if (error) return <Failure error={error} />;
  if (!data) return <Loading what="features" />;
  return (
    <>
      <p class="count" role="status">
        The {data.length} labels closest in meaning. They are always the closest, however far: look at the similarity.
      </p>
      <table class="features" aria-busy={loading} data-testid="features">
        <thead>
          <tr>
            {MEANING_HEADS.map(({ title, hint, number }) => (
              <th key={title} scope="col" title={hint} class={number ? "num" : ""}>
                {title}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {data.map(({ row, similarity }) => (
            <Row key={row.index} place={place} row={row} similarity={similarity} />
          ))}
        </tbody>
      </table>
    </>
  );
}

function ariaSort(state: TableState, sort: Sort | undefined): "ascending" | "descending" | "none" | undefined {
  if (!sort) return undefined;
  if (state.sort !== sort) return "none";
  return state.descending ? "descending" : "ascending";
}

function SortButton({ sort, title, state, onState }: { sort: Sort; title: string; state: TableState; onState: Props["onState"] }) {
  const arrow = state.sort !== sort ? "" : state.descending ? "↓" : "↑";
  return (
    <button type="button" class="sort" aria-label={`Sort by ${sort}`} onClick={() => onState(sortBy(state, sort))}>
      {title}
      <span aria-hidden="true">{arrow}</span>
    </button>
  );
}

function Row({ place, row, similarity = null }: { place: Place; row: FeatureRow; similarity?: number | null }) {
  const grey = row.label === null || row.label_found === false || isUnproven(row);
  return (
    <tr data-index={row.index} class={row.dead ? "dead" : ""}>
      <td class="index">{row.index}</td>
      <td class="label-cell">
        <a href={featureLink(place, row.index)} class={grey ? "grey" : ""}>
          {row.label ?? (row.dead ? "dead" : "not labelled")}
        </a>
      </td>
      {similarity !== null && (
        <td class="num" data-name="similarity">
          {format.score(similarity)}
        </td>
      )}
      <td class="num" data-name="score">
        {format.score(row.score)}
      </td>
      <td class="num" data-name="lift">
        {format.signed(row.lift)}
      </td>
      <td class="num" data-name="density">
        {format.percent(row.density)}
      </td>
      <td class="num" data-name="max">
        {format.number(row.max)}
      </td>
      <td class="top-tokens">
        {row.top_tokens.map((token) => (
          <Chip key={token} text={token} />
        ))}
      </td>
    </tr>
  );
}

/** Fetches the next page when it comes into view, or on a click. */
function More({ onMore }: { onMore: () => void }) {
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    const observer = new IntersectionObserver(([entry]) => entry?.isIntersecting && onMore(), { rootMargin: "600px" });
    if (button.current) observer.observe(button.current);
    return () => observer.disconnect();
  }, []);
  return (
    <button type="button" class="more" ref={button} onClick={onMore}>
      Load more
    </button>
  );
}

/** Moves the focus by `step` rows, so that Enter opens the row. */
export function focusRow(step: number): void {
  const links = [...document.querySelectorAll<HTMLElement>("[data-testid=features] tbody a")];
  const now = links.findIndex((link) => link === document.activeElement);
  const next = links[now < 0 ? 0 : Math.min(links.length - 1, Math.max(0, now + step))];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}
