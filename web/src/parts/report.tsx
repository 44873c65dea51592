/** A report: its headline numbers beside what luck gives, what they do not tell, and the details when they are asked for. */
import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { getReport, type Place } from "../api/client";
import type { Cell, Estimate, Measure, ReportSummary, ReportTable } from "../api/records";
import * as format from "../format";
import { Figure } from "./figure";
import { IntervalPlot } from "./interval";
import { useLoad } from "./load";
import type { Chapter } from "./manual";
import { Failure, Loading } from "./states";

interface Props {
  place: Place;
  report: ReportSummary;
  /** What the manual says of it; none for an analysis that it does not know. */
  chapter: Chapter | undefined;
}

export function ReportView({ place, report, chapter }: Props) {
  const { analysis, question, experimental, current, measures, notes } = report;
  return (
    <section class="panel report" aria-labelledby={analysis} data-testid="report">
      <div class="report-head">
        <h2 id={analysis}>{analysis}</h2>
        <span class="quiet-text">{question}</span>
        {experimental && <span class="tag warn">experimental: never choose a dictionary by it alone</span>}
        {!current && <span class="tag warn">of an earlier training</span>}
      </div>
      <Measures measures={measures} />
      {chapter?.caveat && (
        <p class="caveat">
          <b>Does not tell:</b> <Marked text={chapter.caveat} />
        </p>
      )}
      {notes.map((note) => (
        <p key={note} class="quiet-text">
          {note}
        </p>
      ))}
      {chapter && chapter.table.length > 0 && (
        <Fold summary="What the numbers are">
          <Manual table={chapter.table} />
        </Fold>
      )}
      <Fold summary="Tables and figures">
        <Details place={place} name={analysis} />
      </Fold>
    </section>
  );
}

/** Its content is made when it is opened. */
function Fold({ summary, children }: { summary: string; children: ComponentChildren }) {
  const open = useSignal(false);
  return (
    <details onToggle={(event) => (open.value = event.currentTarget.open)}>
      <summary>{summary}</summary>
      {open.value && children}
    </details>
  );
}

function Measures({ measures }: { measures: readonly Measure[] }) {
  return (
    <div class="wide">
      <table class="measures" data-testid="measures">
        <thead>
          <tr>
            <th scope="col">Measure</th>
            <td />
            <th scope="col">Value</th>
            <th scope="col">n</th>
            <th scope="col">Null</th>
          </tr>
        </thead>
        <tbody>
          {measures.map((measure) => (
            <tr key={measure.name}>
              <th scope="row">{measure.name}</th>
              <td class="drawing">
                <IntervalPlot
                  value={measure.estimate.value}
                  low={measure.estimate.low}
                  high={measure.estimate.high}
                  chance={measure.null?.value ?? null}
                />
              </td>
              <td>
                <Estimated estimate={measure.estimate} />
              </td>
              <td class="quiet-text">{format.count(measure.estimate.n)}</td>
              <td>
                {measure.null && <Estimated estimate={measure.null} />} <small>{measure.null_is}</small>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const Estimated = ({ estimate: { value, low, high } }: { estimate: Estimate }) => (
  <span class="estimate">
    <b>{format.number(value)}</b> <small>{format.interval(low, high)}</small>
  </span>
);

function Details({ place, name }: { place: Place; name: string }) {
  const { data, error } = useLoad(`${place.model}/${place.source}/${name}`, (stop) => getReport(place, name, stop));
  if (error) return <Failure error={error} />;
  if (!data) return <Loading what="the report" />;
  return (
    <>
      <div class="figures">
        {data.charts.map((chart, number) => (
          <Figure key={chart.title} place={place} path={`reports/${encodeURIComponent(name)}/charts/${number}`} />
        ))}
      </div>
      {data.tables.map((table) => (
        <Table key={table.title} table={table} />
      ))}
      <p class="quiet-text">
        Made in {format.duration(data.seconds)} with{" "}
        {Object.entries(data.config)
          .map(([key, value]) => `${key} ${JSON.stringify(value)}`)
          .join(", ")}
        .
      </p>
    </>
  );
}

function Table({ table: { title, columns, rows } }: { table: ReportTable }) {
  const shown = (cell: Cell) => (cell !== null && typeof cell === "object" ? <Estimated estimate={cell} /> : cellText(cell));
  return <Grid title={title} columns={columns} rows={rows.map((row) => row.map(shown))} />;
}

/** A table of anything that can be shown, wide where it must be. */
function Grid({ title, columns, rows }: { title?: string; columns: readonly string[]; rows: readonly ComponentChildren[][] }) {
  return (
    <div class="wide">
      <table data-testid={title && "report-table"}>
        {title && <caption>{title}</caption>}
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column} scope="col">
                {column}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, number) => (
            <tr key={number}>
              {row.map((cell, place) => (
                <td key={place}>{cell}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** A cell that is no estimate, in words. */
export function cellText(cell: Exclude<Cell, Estimate>): string {
  if (typeof cell === "boolean") return cell ? "yes" : "no";
  return typeof cell === "string" ? cell : format.number(cell);
}

/** The manual's own table. */
function Manual({ table: [head = [], ...rows] }: { table: readonly string[][] }) {
  return <Grid columns={head} rows={rows.map((row) => row.map((cell) => <Marked text={cell} />))} />;
}

/** Text of the manual: what stands between backticks is code. */
const Marked = ({ text }: { text: string }) => (
  <>{text.split("`").map((part, place) => (place % 2 === 1 ? <code key={place}>{part}</code> : part))}</>
);
