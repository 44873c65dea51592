/** What the feature table shows, kept in the address so that a view can be shared. */
import type { FeaturesQuery } from "../api/records";

export const SORTS = ["index", "score", "lift", "density", "max"] as const;
/** Tags that the library gives features. */
export const TAGS = ["dense", "token", "ngram", "positional", "special", "code", "language"] as const;
/** How the words of the search field are meant. */
export const MODES = ["words", "meaning"] as const;
export type Mode = (typeof MODES)[number];
export type Sort = (typeof SORTS)[number];

export interface TableState {
  sort: Sort;
  descending: boolean;
  /** Words of the label or top tokens. */
  q: string;
  /** By words of labels and tokens, or by what labels mean; then they alone decide what is listed. */
  mode: Mode;
  dead: boolean | null;
  labelled: boolean | null;
  /** A tag that features must have; empty for any. */
  tag: string;
  minDensity: number | null;
  minLift: number | null;
  /** A text whose features are listed in place of the table; empty for the table. */
  text: string;
}

/** The state written in the query of an address. What is missing or makes no sense takes its default. */
export function readTable(search: string): TableState {
  const query = new URLSearchParams(search);
  const sort = SORTS.find((name) => name === query.get("sort")) ?? "index";
  return {
    sort,
    descending: query.get("descending") === "true",
    q: query.get("q") ?? "",
    mode: MODES.find((name) => name === query.get("mode")) ?? "words",
    dead: flag(query.get("dead")),
    labelled: flag(query.get("labelled")),
    tag: TAGS.find((name) => name === query.get("tag")) ?? "",
    minDensity: numeral(query.get("min_density")),
    minLift: numeral(query.get("min_lift")),
    text: query.get("text") ?? "",
  };
}

/** The query of an address, with a leading `?`, without the defaults; empty for the default view. */
export function writeTable(state: TableState): string {
  const defaults: Record<string, unknown> = named(readTable(""));
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(named(state))) {
    if (value !== defaults[name]) query.set(name, String(value));
  }
  return query.size > 0 ? `?${query}` : "";
}

const named = (state: TableState) => ({ ...tableQuery(state), mode: state.mode, tag: state.tag, text: state.text });

/** The state as the API's parameters. */
export function tableQuery(state: TableState): FeaturesQuery {
  return {
    sort: state.sort,
    descending: state.descending,
    q: state.q,
    dead: state.dead,
    labelled: state.labelled,
    tag: state.tag ? [state.tag] : [],
    min_density: state.minDensity,
    min_lift: state.minLift,
  };
}

/** The state after a click on a column's head: the strongest first at the first click, turned round at the next. */
export function sortBy(state: TableState, sort: Sort): TableState {
  const descending = state.sort === sort ? !state.descending : sort !== "index";
  return { ...state, sort, descending };
}

/** True where the list is of features whose labels mean what was asked for, in place of the table. */
export const isByMeaning = (state: TableState) => state.mode === "meaning" && state.q !== "";

/** True where any filter is set. */
export function isFiltered(state: TableState): boolean {
  return state.q !== "" || state.tag !== "" || [state.dead, state.labelled, state.minDensity, state.minLift].some((filter) => filter !== null);
}

function flag(text: string | null): boolean | null {
  return text === "true" ? true : text === "false" ? false : null;
}

/** A finite number, or none for anything else. */
export function numeral(text: string | null): number | null {
  const value = text === null || text.trim() === "" ? Number.NaN : Number(text);
  return Number.isFinite(value) ? value : null;
}
