/** The feature table of a dictionary. */
import { useEffect } from "preact/hooks";
import { useLocation } from "preact-iso";
import { getSource, type Place } from "../api/client";
import type { Source } from "../api/records";
import * as format from "../format";
import { mapLink, rememberTable, reportsLink, steerLink, tableLink } from "../links";
import { FeatureTable, focusRow, MeaningTable } from "../parts/feature_table";
import { Filters } from "../parts/filters";
import { useKeys } from "../parts/keys";
import { useLoad } from "../parts/load";
import { describeSource } from "../parts/quality";
import { useRows } from "../parts/rows";
import { Shell } from "../parts/shell";
import { Failure, FailurePage } from "../parts/states";
import { TextSearch } from "../parts/text_search";
import { isByMeaning, readTable, type TableState, writeTable } from "../state/table";

export function FeaturesPage({ model, source }: Place) {
  const place = { model, source };
  const { data, error } = useLoad(`${model}/${source}`, (stop) => getSource(place, stop));
  if (error) return <FailurePage error={error} />;
  return (
    <Shell
      title={source}
      crumbs={[{ text: model }, { text: source }]}
      actions={
        <>
          <a class="button" href={mapLink(place)}>
            Map
          </a>
          <a class="button" href={reportsLink(place)}>
            Reports
          </a>
          <a class="button" href={steerLink(place)}>
            Steer
          </a>
        </>
      }
    >
      <h1>{source}</h1>
      {data && <Summary source={data} />}
      <Browse place={place} />
    </Shell>
  );
}

function Summary({ source }: { source: Source }) {
  const { quality, num_labelled } = source;
  const parts = [describeSource(source), `${format.count(num_labelled)} labelled`];
  if (quality) parts.push(`FVU ${format.number(quality.fvu.value)} at L0 ${format.number(quality.l0.value)}`);
  return <p class="quiet-text">{parts.join(" · ")}</p>;
}

function Browse({ place }: { place: Place }) {
  const { url, route } = useLocation();
  const state = readTable(url.split("?")[1] ?? "");
  const { rows, more } = useRows(place, isByMeaning(state) ? { ...state, q: "" } : state);
  const show = (next: TableState, replace = true) => route(tableLink(place) + writeTable(next), replace);
  useEffect(() => rememberTable(url), [url]);
  useKeys([
    { key: "j", does: "next row", run: () => focusRow(1) },
    { key: "k", does: "previous row", run: () => focusRow(-1) },
    { key: "m", does: "go to the map", run: () => route(mapLink(place)) },
    { key: "r", does: "go to the reports", run: () => route(reportsLink(place)) },
    { key: "Enter", does: "open the row", run: () => (document.activeElement as HTMLElement | null)?.click() },
  ]);
  const { error, loading, total } = rows.value;
  return (
    <>
      <TextSearch place={place} text={state.text} onText={(text) => show({ ...state, text }, false)} />
      {!state.text && <Filters state={state} onState={show} />}
      {!state.text && isByMeaning(state) && <MeaningTable place={place} q={state.q} />}
      {!state.text && !isByMeaning(state) && (
        <>
          <p class="count" role="status" data-testid="total">
            {loading && total === 0 ? " " : `${format.count(total)} ${total === 1 ? "feature" : "features"}`}
          </p>
          {error ? <Failure error={error} /> : <FeatureTable place={place} state={state} rows={rows.value} onState={show} onMore={more} />}
        </>
      )}
    </>
  );
}
