/** A dictionary that is being trained: its log, asked for again and again. */
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { type ApiError, getLog, type Place } from "../api/client";
import type { LogRow } from "../api/records";
import * as format from "../format";
import { Figure } from "./figure";
import { asApiError } from "./load";
import { Failure } from "./states";

/** Milliseconds between two looks at the log. */
const EVERY = 2000;
/** Seconds of training after which the figure is drawn anew. */
const FIGURE_SECONDS = 10;

export function LiveTraining({ place }: { place: Place }) {
  const last = useSignal<LogRow | null>(null);
  const error = useSignal<ApiError | null>(null);
  useEffect(() => {
    const control = new AbortController();
    const look = async () => {
      try {
        const rows = await getLog(place, last.peek()?.step ?? -1, control.signal);
        last.value = rows.at(-1) ?? last.peek();
        error.value = null;
      } catch (problem) {
        if (!control.signal.aborted) error.value = asApiError(problem);
      }
    };
    void look();
    const timer = setInterval(() => void look(), EVERY);
    return () => {
      control.abort();
      clearInterval(timer);
    };
  }, [place.model, place.source]);
  const row = last.value;
  return (
    <div class="live" data-testid="live">
      {error.value && <Failure error={error.value} />}
      <p role="status">
        <span class="pulse" aria-hidden="true" />{" "}
        {row ? `Training: step ${format.count(row.step)}, ${format.duration(row.seconds)}` : "Not trained yet"}
      </p>
      {row && <Metrics row={row} />}
      {row && <Figure place={place} path="figures/training" version={Math.floor(row.seconds / FIGURE_SECONDS)} />}
    </div>
  );
}

function Metrics({ row }: { row: LogRow }) {
  return (
    <dl class="metrics">
      <div>
        <dt>activations</dt>
        <dd>{format.count(row.tokens)}</dd>
      </div>
      {Object.entries(row.metrics).map(([name, value]) => (
        <div key={name}>
          <dt>{name.replaceAll("_", " ")}</dt>
          <dd>{format.number(value)}</dd>
        </div>
      ))}
    </dl>
  );
}
