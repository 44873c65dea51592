/** The rows of the feature table, page by page. */
import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { type ApiError, getFeatures, type Place } from "../api/client";
import type { FeatureRow } from "../api/records";
import { tableQuery, type TableState } from "../state/table";
import { asApiError } from "./load";

export interface Rows {
  items: FeatureRow[];
  total: number;
  cursor: string | null;
  loading: boolean;
  error: ApiError | null;
}

const NONE: Rows = { items: [], total: 0, cursor: null, loading: true, error: null };
const PAGE = 50;

/** The rows last shown and how far down, so that coming back from a feature finds the table as it was left. */
const kept = { key: "", rows: NONE, scroll: 0 };

/** The rows that match `state`, and a function that fetches more of them. */
export function useRows(place: Place, state: TableState): { rows: Signal<Rows>; more: () => void } {
  const key = JSON.stringify([place, tableQuery(state)]);
  const rows = useSignal<Rows>(kept.key === key ? kept.rows : NONE);
  const control = useRef(new AbortController());

  const ask = (before: FeatureRow[], cursor: string | null) => {
    control.current.abort();
    control.current = new AbortController();
    const { signal } = control.current;
    rows.value = { ...rows.peek(), loading: true, error: null };
    getFeatures(place, { ...tableQuery(state), limit: PAGE, cursor }, signal).then(
      (page) => {
        if (signal.aborted) return;
        rows.value = { items: [...before, ...page.items], total: page.total, cursor: page.next_cursor, loading: false, error: null };
        kept.key = key;
        kept.rows = rows.value;
      },
      (error: unknown) => {
        if (!signal.aborted) rows.value = { ...NONE, loading: false, error: asApiError(error) };
      },
    );
  };

  useEffect(() => {
    if (kept.key === key) rows.value = kept.rows;
    else ask([], null);
    return () => control.current.abort();
  }, [key]);

  useLayoutEffect(() => {
    if (kept.key === key) scrollTo(0, kept.scroll);
    const keep = () => void (kept.scroll = scrollY);
    addEventListener("scroll", keep, { passive: true });
    return () => removeEventListener("scroll", keep);
  }, []);

  const more = () => {
    const { items, cursor, loading } = rows.peek();
    if (cursor !== null && !loading) ask(items, cursor);
  };
  return { rows, more };
}
