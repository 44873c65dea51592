/** Data on its way from the server. */
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiError } from "../api/client";

export interface Load<T> {
  /** The last answer; kept while the next one is on its way. */
  data: T | null;
  error: ApiError | null;
  loading: boolean;
}

/** What `load` gives, asked for again whenever `key` changes; an answer to an older key is dropped. Nothing is asked where `key` is null. */
export function useLoad<T>(key: string | null, load: (stop: AbortSignal) => Promise<T>): Load<T> {
  const state = useSignal<Load<T>>({ data: null, error: null, loading: key !== null });
  useEffect(() => {
    if (key === null) {
      state.value = { data: null, error: null, loading: false };
      return undefined;
    }
    const control = new AbortController();
    state.value = { ...state.peek(), error: null, loading: true };
    load(control.signal).then(
      (data) => {
        if (!control.signal.aborted) state.value = { data, error: null, loading: false };
      },
      (error: unknown) => {
        if (!control.signal.aborted) state.value = { data: null, error: asApiError(error), loading: false };
      },
    );
    return () => control.abort();
  }, [key]);
  return state.value;
}

/** Any failure as one that can be shown. */
export function asApiError(error: unknown): ApiError {
  return error instanceof ApiError ? error : new ApiError(0, "Unexpected error", String(error));
}

/** `value` as it was when it last rested for `milliseconds`: for asking while somebody types. */
export function useRested<T>(value: T, milliseconds: number): T {
  const rested = useSignal(value);
  useEffect(() => {
    const timer = setTimeout(() => (rested.value = value), milliseconds);
    return () => clearTimeout(timer);
  }, [value]);
  return rested.value;
}
