/** All about one feature. */
import { useSignal } from "@preact/signals";
import { useLocation } from "preact-iso";
import { getFeature, type Place } from "../api/client";
import type { Feature } from "../api/records";
import { backLink, featureLink, mapLink, steerLink } from "../links";
import { Documents } from "../parts/documents";
import { Examples } from "../parts/examples";
import { Firing, Logits } from "../parts/facts";
import { useKeys } from "../parts/keys";
import { LabelDetails, LabelHeading } from "../parts/label";
import { useLoad } from "../parts/load";
import { Neighbours } from "../parts/neighbours";
import { OwnText } from "../parts/own_text";
import { Scores } from "../parts/scores";
import { Shell } from "../parts/shell";
import { FailurePage, Loading } from "../parts/states";

export function FeaturePage({ model, source, index }: { model: string; source: string; index: string }) {
  const place = { model, source };
  const { data, error } = useLoad(`${model}/${source}/${index}`, (stop) => getFeature(place, Number(index), stop));
  if (error) return <FailurePage error={error} />;
  if (!data) {
    return (
      <Shell title={`Feature ${index}`}>
        <Loading what={`feature ${index}`} />
      </Shell>
    );
  }
  return <FeatureView place={place} feature={data} />;
}

function FeatureView({ place, feature }: { place: Place; feature: Feature }) {
  const { route } = useLocation();
  const reached = useSignal(0);
  const { index } = feature.id;
  const go = (to: number | null) => to !== null && route(featureLink(place, to));
  useKeys([
    { key: "j", does: "next feature", run: () => go(feature.next) },
    { key: "k", does: "previous feature", run: () => go(feature.previous) },
    { key: "s", does: "steer with this feature", run: () => route(steerLink(place, index)) },
    { key: "m", does: "show it on the map", run: () => route(mapLink(place, index)) },
    { key: "u", does: "up to the table", run: () => route(backLink(place)) },
  ]);
  const crumbs = [{ text: place.model }, { text: place.source, href: backLink(place) }, { text: `#${index}` }];
  return (
    <Shell title={`#${index} ${feature.label?.text ?? ""}`} crumbs={crumbs} actions={<Steps place={place} feature={feature} />}>
      <div class="feature-head">
        <LabelHeading label={feature.label} index={index} />
        <p class="feature-actions">
          <a class="button" href={mapLink(place, index)}>
            Map
          </a>
          <a class="button primary" href={steerLink(place, index)}>
            Steer
          </a>
        </p>
      </div>
      {feature.tags.length > 0 && (
        <ul class="tags" aria-label="Tags" data-testid="tags">
          {feature.tags.map((tag) => (
            <li key={tag} class="tag">
              {tag}
            </li>
          ))}
        </ul>
      )}
      {feature.label && <LabelDetails label={feature.label} />}
      <Scores feature={feature} />
      <div class="feature-body">
        <div class="column">
          <Firing feature={feature} marker={reached.value} />
          <Logits feature={feature} />
          <Neighbours place={place} neighbours={feature.neighbours} />
        </div>
        <div class="column">
          <OwnText place={place} feature={feature} reached={reached} />
          <Examples bands={feature.bands} max={feature.max} />
          <Documents place={place} feature={feature} />
        </div>
      </div>
    </Shell>
  );
}

/** Links to the features before and after this one. */
function Steps({ place, feature: { previous, next } }: { place: Place; feature: Feature }) {
  return (
    <>
      {previous !== null && (
        <a class="button" rel="prev" href={featureLink(place, previous)} aria-label="Previous feature" title="Previous feature (k)">
          ←
        </a>
      )}
      {next !== null && (
        <a class="button" rel="next" href={featureLink(place, next)} aria-label="Next feature" title="Next feature (j)">
          →
        </a>
      )}
    </>
  );
}
