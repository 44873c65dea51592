/** What analyses answered about a dictionary. */
import { useLocation } from "preact-iso";
import { getReports, type Place } from "../api/client";
import { backLink } from "../links";
import { useKeys } from "../parts/keys";
import { useLoad } from "../parts/load";
import { readManual } from "../parts/manual";
import { ReportView } from "../parts/report";
import { Shell } from "../parts/shell";
import { Empty, FailurePage, Loading } from "../parts/states";

const loadManual = async () => readManual((await import("../../../docs/evaluation.md?raw")).default);

export function ReportsPage({ model, source }: Place) {
  const place = { model, source };
  const { route } = useLocation();
  const { data, error } = useLoad(`${model}/${source}`, (stop) => getReports(place, stop));
  const manual = useLoad("manual", loadManual).data;
  useKeys([{ key: "u", does: "up to the table", run: () => route(backLink(place)) }]);
  if (error) return <FailurePage error={error} />;
  return (
    <Shell title={`Reports on ${source}`} crumbs={[{ text: model }, { text: source, href: backLink(place) }, { text: "reports" }]}>
      <h1>Reports</h1>
      {!data && <Loading what="reports" />}
      {data?.length === 0 && (
        <Empty>
          No report yet. <code>saelab analyse RUN core</code> measures what this dictionary keeps; <code>saelab analyse --help</code> lists the
          other questions.
        </Empty>
      )}
      {data?.map((report) => (
        <ReportView key={report.analysis} place={place} report={report} chapter={manual?.get(report.analysis)} />
      ))}
    </Shell>
  );
}
