/** Steered generation beside the plain one. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { useLocation } from "preact-iso";
import type { Place } from "../api/client";
import type { Intervention, SteerRequest } from "../api/records";
import { backLink, steerLink } from "../links";
import { AddFeature } from "../parts/add_feature";
import { ChangeEditor } from "../parts/change";
import { GenerationForm } from "../parts/generation";
import { useKeys } from "../parts/keys";
import { useRested } from "../parts/load";
import { Shell } from "../parts/shell";
import { Empty, Failure } from "../parts/states";
import { Reading, SideBySide } from "../parts/steered_text";
import { type Phase, useSteering } from "../parts/steering";
import { freshChange, readSteer, writeSteer } from "../state/steer";

export function SteerPage({ model, source }: Place) {
  const place = { model, source };
  const { route } = useLocation();
  const [request, change] = useRequest(place);
  const { texts, start, stop } = useSteering(place);
  const ready = request.prompt.trim() !== "";
  const go = () => ready && start(request);
  const submit = (event: Event) => {
    event.preventDefault();
    go();
  };
  useKeys([
    { key: "g", does: "generate", run: go },
    { key: "Escape", does: "stop", run: stop },
    { key: "u", does: "up to the table", run: () => route(backLink(place)) },
  ]);
  return (
    <Shell title={`Steer ${source}`} crumbs={[{ text: model }, { text: source, href: backLink(place) }, { text: "steer" }]}>
      <h1>Steer</h1>
      <div class="steer-form">
        <form class="panel" aria-label="Generation" onSubmit={submit}>
          <GenerationForm request={request} onRequest={change} />
          <div class="actions">
            <RunButton running={texts.phase === "running"} ready={ready} onStop={stop} />
            <CopyLink link={() => location.origin + steerLink(place) + writeSteer(request)} />
            <p class="quiet-text" role="status" data-testid="phase">
              {describe(texts.phase, texts.steered.length, ready)}
            </p>
          </div>
        </form>
        <section class="panel" aria-label="Changes">
          <Changes place={place} request={request} onRequest={change} />
        </section>
      </div>
      {texts.error && <Failure error={texts.error} />}
      <SideBySide texts={texts} />
      {texts.completion && <Reading completion={texts.completion} />}
    </Shell>
  );
}

/** The request in the address. The address follows when the typing rests: browsers slow down pages that rewrite it at every key. */
function useRequest(place: Place): [SteerRequest, (next: SteerRequest) => void] {
  const { url, route } = useLocation();
  const search = url.split("?")[1] ?? "";
  const request = useSignal(readSteer(search));
  const written = useRef(search);
  const rested = useRested(request.value, 250);
  useEffect(() => {
    const query = writeSteer(rested);
    if (query.slice(1) === search) return;
    written.current = query.slice(1);
    route(steerLink(place) + query, true);
  }, [rested]);
  useEffect(() => {
    if (search !== written.current) request.value = readSteer(search);
    written.current = search;
  }, [search]);
  return [request.value, (next) => (request.value = next)];
}

function Changes({ place, request, onRequest }: { place: Place; request: SteerRequest; onRequest: (request: SteerRequest) => void }) {
  const { interventions } = request;
  const set = (next: Intervention[]) => onRequest({ ...request, interventions: next });
  const add = (feature: number) => {
    if (!interventions.some((one) => one.feature === feature)) set([...interventions, freshChange(feature)]);
  };
  return (
    <>
      {interventions.length === 0 && <Empty>No feature is changed yet: both texts will be the same.</Empty>}
      {interventions.map((one) => (
        <ChangeEditor
          key={one.feature}
          place={place}
          change={one}
          onChange={(next) => set(interventions.map((other) => (other.feature === one.feature ? next : other)))}
          onRemove={() => set(interventions.filter((other) => other.feature !== one.feature))}
        />
      ))}
      <AddFeature place={place} onAdd={add} />
    </>
  );
}

/** Submits the form, or stops what runs. Two elements with keys of their own, so that the click that stops never submits. */
function RunButton({ running, ready, onStop }: { running: boolean; ready: boolean; onStop: () => void }) {
  return running ? (
    <button key="stop" type="button" class="primary" onClick={onStop}>
      Stop
    </button>
  ) : (
    <button key="go" type="submit" class="primary" disabled={!ready}>
      Generate
    </button>
  );
}

function CopyLink({ link }: { link: () => string }) {
  const copied = useSignal(false);
  const copy = async () => {
    await navigator.clipboard.writeText(link());
    copied.value = true;
    setTimeout(() => (copied.value = false), 1500);
  };
  return (
    <button type="button" onClick={() => void copy()}>
      {copied.value ? "Copied" : "Copy link"}
    </button>
  );
}

function describe(phase: Phase, tokens: number, ready: boolean): string {
  if (phase === "running") return "Generating …";
  if (phase === "stopped") return `Stopped after ${tokens} tokens.`;
  if (phase === "done") return "Done.";
  return ready || phase === "failed" ? "" : "Write a prompt first.";
}
