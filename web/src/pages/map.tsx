/** Where the features of a dictionary lie: those with close decoder directions lie close. */
import { useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { useLocation } from "preact-iso";
import { getFeature, getMap, type Place } from "../api/client";
import type { FeatureMap } from "../api/records";
import * as format from "../format";
import { backLink, featureLink, mapLink } from "../links";
import { useKeys } from "../parts/keys";
import { useLoad, useRested } from "../parts/load";
import { type Colour, COLOURS, colouring } from "../parts/map_colours";
import { Scatter } from "../parts/scatter";
import { Shell } from "../parts/shell";
import { Empty, FailurePage, Loading } from "../parts/states";

export function MapPage({ model, source }: Place) {
  const place = { model, source };
  const { route } = useLocation();
  const { data, error } = useLoad(`${model}/${source}`, (stop) => getMap(place, stop));
  useKeys([{ key: "u", does: "up to the table", run: () => route(backLink(place)) }]);
  if (error) return <FailurePage error={error} />;
  return (
    <Shell title={`Map of ${source}`} crumbs={[{ text: model }, { text: source, href: backLink(place) }, { text: "map" }]}>
      <h1>Map</h1>
      <p class="quiet-text">
        Features with close decoder directions lie close. Distances between far groups mean nothing, nor do the axes.
      </p>
      {!data && <Loading what="the map" />}
      {data && data.x.length === 0 && (
        <Empty>
          No map was made of these features. <code>saelab collect</code> makes one with the features; imported features have none.
        </Empty>
      )}
      {data && data.x.length > 0 && <MapView place={place} map={data} />}
    </Shell>
  );
}

function MapView({ place, map }: { place: Place; map: FeatureMap }) {
  const { url, route } = useLocation();
  const query = new URLSearchParams(url.split("?")[1] ?? "");
  const by = COLOURS.find((name) => name === query.get("colour")) ?? "density";
  const asked = Number(query.get("feature") ?? Number.NaN);
  const chosen = useSignal<number | null>(Number.isInteger(asked) && asked >= 0 && asked < map.x.length ? asked : null);
  const colours = useMemo(() => colouring(map, by), [map, by]);
  const show = (colour: string) => {
    query.set("colour", colour);
    route(`${mapLink(place)}?${query}`, true);
  };
  return (
    <>
      <div class="map-head">
        <label class="field">
          <span>Colour by</span>
          <select value={by} onChange={(event) => show(event.currentTarget.value)}>
            {COLOURS.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
        <ul class="legend" aria-label="Colours" data-testid="legend">
          {colours.legend.map(({ name, colour }) => (
            <li key={name}>
              <span class="swatch" style={{ background: colour }} /> {name}
            </li>
          ))}
        </ul>
      </div>
      <Scatter
        x={map.x}
        y={map.y}
        classes={colours.classes}
        colours={colours.colours}
        chosen={chosen.value}
        label={`Map of ${format.count(map.x.length)} features by ${by}`}
        onChoose={(index) => (chosen.value = index)}
        onOpen={(index) => route(featureLink(place, index))}
      />
      <Chosen place={place} map={map} by={by} index={chosen.value} />
    </>
  );
}

/** The feature under the pointer. Its label is fetched when the pointer rests. */
function Chosen({ place, map, by, index }: { place: Place; map: FeatureMap; by: Colour; index: number | null }) {
  const rested = useRested(index, 150);
  const key = rested === null ? null : `${place.model}/${place.source}/${rested}`;
  const { data } = useLoad(key, (stop) => getFeature(place, rested ?? 0, stop));
  if (index === null) return <p class="chosen quiet-text">Point at a feature to read its label; a click opens it.</p>;
  const label = data?.id.index === index ? (data.label?.text ?? "not labelled") : "…";
  const number = by === "score" ? `score ${format.score(map.score[index])}` : `density ${format.percent(map.density[index] ?? 0)}`;
  const tag = map.tags[map.tag[index] ?? -1];
  return (
    <p class="chosen" role="status" data-testid="chosen">
      <a href={featureLink(place, index)}>
        <span class="quiet-text">#{index}</span> {label}
      </a>{" "}
      <span class="quiet-text">
        {number}
        {tag && ` · ${tag}`}
      </span>
    </p>
  );
}
