/** All runs: what is in them, how good it is, how the training went. */
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { getRuns, searchLabels } from "../api/client";
import type { Run, Source } from "../api/records";
import * as format from "../format";
import { featureLink, mapLink, reportsLink, steerLink, tableLink } from "../links";
import { Figure } from "../parts/figure";
import { LiveTraining } from "../parts/live";
import { useLoad, useRested } from "../parts/load";
import { describeSource, QualityTable } from "../parts/quality";
import { Shell } from "../parts/shell";
import { Stages } from "../parts/stages";
import { Empty, Failure, FailurePage, Loading } from "../parts/states";

const RUN_STAGES = ["read", "capture"];
const SOURCE_STAGES = ["train", "evaluate", "collect", "label", "score"];
const EVERY = 5000;
const HITS = 20;

const isTraining = (source: Source) => !source.stages.includes("train");

export function RunsPage() {
  const round = useSignal(0);
  const { data, error } = useLoad(`runs#${round.value}`, getRuns);
  const training = data?.some((run) => run.sources.some(isTraining)) ?? false;
  useEffect(() => {
    if (!training) return undefined;
    const timer = setInterval(() => (round.value += 1), EVERY);
    return () => clearInterval(timer);
  }, [training]);
  if (error) return <FailurePage error={error} />;
  return (
    <Shell title="saelab">
      <h1>Runs</h1>
      <LabelSearch />
      {!data && <Loading what="runs" />}
      {data?.length === 0 && (
        <Empty>
          No run yet. Make one with <code>saelab make demo</code>.
        </Empty>
      )}
      {data?.map((run) => (
        <RunView key={run.name} run={run} />
      ))}
    </Shell>
  );
}

function RunView({ run }: { run: Run }) {
  return (
    <section class="run" aria-label={`Run ${run.name}`} data-testid="run">
      <div class="run-head">
        <h2>{run.name}</h2>
        <span class="quiet-text">
          {run.model ?? "no subject yet"}
          {run.num_tokens > 0 && ` · ${format.count(run.num_tokens)} tokens`}
        </span>
        <Stages all={RUN_STAGES} done={run.stages} />
      </div>
      {run.problem && <p class="failure">{run.problem}</p>}
      {run.sources.length === 0 && !run.problem && <Empty>No dictionary in this run yet.</Empty>}
      {run.sources.map((source) => (
        <SourceView key={source.source} source={source} />
      ))}
    </section>
  );
}

function SourceView({ source }: { source: Source }) {
  const collected = source.stages.includes("collect");
  return (
    <article class="panel" aria-label={`Dictionary ${source.source}`} data-testid="source">
      <div class="run-head">
        <h3>{collected ? <a href={tableLink(source)}>{source.source}</a> : source.source}</h3>
        <span class="quiet-text">
          {describeSource(source)}
          {source.num_labelled > 0 && `, ${format.count(source.num_labelled)} labelled`}
        </span>
        <Stages all={SOURCE_STAGES} done={source.stages} />
      </div>
      {isTraining(source) ? (
        <LiveTraining place={source} />
      ) : (
        <div class="source-body">
          {source.quality ? (
            <QualityTable quality={source.quality} name={source.architecture ?? source.source} />
          ) : (
            <Empty>Not evaluated yet.</Empty>
          )}
          <Figure place={source} path="figures/training" />
          {collected && <Figure place={source} path="figures/densities" />}
        </div>
      )}
      {collected && (
        <p class="actions">
          <a class="button primary" href={tableLink(source)}>
            Features
          </a>
          <a class="button" href={mapLink(source)}>
            Map
          </a>
          <a class="button" href={reportsLink(source)}>
            Reports
          </a>
          <a class="button" href={steerLink(source)}>
            Steer
          </a>
        </p>
      )}
    </article>
  );
}

/** Searches the labels of all dictionaries. */
function LabelSearch() {
  const typed = useSignal("");
  const words = useRested(typed.value.trim(), 250);
  const { data, error } = useLoad(words || null, (stop) => searchLabels(words, HITS, stop));
  return (
    <form class="label-search" role="search" onSubmit={(event) => event.preventDefault()}>
      <label class="field grow">
        <span>Search the labels of all dictionaries</span>
        <input type="search" data-search value={typed.value} onInput={(event) => (typed.value = event.currentTarget.value)} />
      </label>
      {error && <Failure error={error} />}
      {data?.length === 0 && <Empty>No label holds these words.</Empty>}
      {data && data.length > 0 && (
        <ul class="hits" data-testid="hits">
          {data.map(({ id, row }) => (
            <li key={`${id.model}/${id.source}/${id.index}`}>
              <a href={featureLink(id, id.index)}>{row.label ?? "not labelled"}</a>
              <span class="quiet-text">
                {id.source} #{id.index}, lift {format.signed(row.lift)}
              </span>
            </li>
          ))}
        </ul>
      )}
    </form>
  );
}
