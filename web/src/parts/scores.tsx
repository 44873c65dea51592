/** Every score of a feature: of its label, and of the feature itself. */
import { useSignal } from "@preact/signals";
import type { Feature, Score } from "../api/records";
import * as format from "../format";
import { IntervalPlot } from "./interval";
import { isUnproven } from "./label";

export interface Scored {
  score: Score;
  /** What the number is about. */
  of: "label" | "feature";
}

const HEADS: [string, string][] = [
  ["Measure", ""],
  ["Value", "With its 95 % interval"],
  ["Null", "What luck gives: the same score with labels of other features, or another null that the scorer names"],
  ["Lift", "Value minus null, with its 95 % interval"],
  ["n", "Windows it was scored on"],
  ["Scorer", ""],
];

/** Those held against a null first; the others are shown when asked for. */
export function Scores({ feature }: { feature: Feature }) {
  const all = useSignal(false);
  const [main, others] = splitScores(allScores(feature));
  if (main.length === 0) return null;
  return (
    <section class="panel scores" aria-labelledby="scores">
      <div class="panel-head">
        <h2 id="scores">Scores on held-out documents</h2>
        {others.length > 0 && (
          <button type="button" class="quiet" aria-expanded={all.value} onClick={() => (all.value = !all.value)}>
            {all.value ? "Show fewer" : `Show ${others.length} more`}
          </button>
        )}
      </div>
      <table data-testid="scores">
        <thead>
          <tr>
            {HEADS.map(([name, hint]) => (
              <th key={name} scope="col" title={hint}>
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {(all.value ? [...main, ...others] : main).map((one) => (
            <ScoreRow key={one.of + one.score.scorer + one.score.metric} one={one} />
          ))}
        </tbody>
      </table>
    </section>
  );
}

/** The scores of the label, then those of the feature itself. */
export function allScores({ label, scores }: Pick<Feature, "label" | "scores">): Scored[] {
  const of = (kind: Scored["of"]) => (score: Score) => ({ score, of: kind });
  return [...(label?.scores ?? []).map(of("label")), ...scores.map(of("feature"))];
}

/** The first of each kind and those with a lift, and the others. */
export function splitScores(scores: readonly Scored[]): [Scored[], Scored[]] {
  const isMain = (one: Scored) => one.score.lift !== null || one === scores.find((other) => other.of === one.of);
  return [scores.filter(isMain), scores.filter((one) => !isMain(one))];
}

function ScoreRow({ one: { score, of } }: { one: Scored }) {
  const { value } = score;
  return (
    <tr data-testid="score">
      <th scope="row">
        {score.metric.replaceAll("_", " ")} <small>of the {of}</small>
      </th>
      {value === null ? (
        <td colSpan={4}>
          <span class="tag warn">failed</span> {score.failed}
        </td>
      ) : (
        <>
          <td>
            <span class="drawn">
              <IntervalPlot value={value} low={score.low} high={score.high} chance={score.null} />
              <span>
                <b>{format.score(value)}</b> <small>{format.interval(score.low, score.high, format.score)}</small>
              </span>
            </span>
          </td>
          <td data-name="null">{format.score(score.null)}</td>
          <td data-name="lift">
            <b>{format.signed(score.lift)}</b> <small>{format.interval(score.lift_low, score.lift_high, format.score)}</small>
            {isUnproven(score) && <span class="tag warn">not better than chance</span>}
          </td>
          <td data-name="n">
            {format.count(score.n)}
            {score.insufficient && <span class="tag warn">too few windows fired</span>}
          </td>
        </>
      )}
      <td>
        {score.scorer}
        {score.model && <small> {score.model}</small>}
        {score.failures > 0 && <small> {format.percent(score.failures)} of the answers unreadable</small>}
      </td>
    </tr>
  );
}
