/** Features whose direction is close. */
import type { Place } from "../api/client";
import type { Neighbour } from "../api/records";
import { featureLink } from "../links";

export function Neighbours({ place, neighbours }: { place: Place; neighbours: readonly Neighbour[] }) {
  return (
    <section class="panel" aria-labelledby="neighbours">
      <h2 id="neighbours">Neighbours</h2>
      <p class="quiet-text">By the cosine of their decoder directions.</p>
      <ol class="neighbours">
        {neighbours.map(({ index, similarity, label }) => (
          <li key={index}>
            <span class="num">{similarity.toFixed(2)}</span>
            <a href={featureLink(place, index)}>
              <span class="quiet-text">#{index}</span> {label ?? "not labelled"}
            </a>
          </li>
        ))}
      </ol>
    </section>
  );
}
