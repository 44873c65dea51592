/** A label and what its scores say. */
import type { Label, Score } from "../api/records";
import * as format from "../format";

/** True where nothing shows that the label is better than a label of another feature. */
export function isUnproven(lift: { lift_low: number | null }): boolean {
  return lift.lift_low !== null && lift.lift_low <= 0;
}

/** The heading of the feature page: greyed where a score's interval includes chance. */
export function LabelHeading({ label, index }: { label: Label | null; index: number }) {
  const grey = label === null || !label.found || label.scores.some(isUnproven);
  return (
    <h1 class={grey ? "label grey" : "label"} data-testid="label">
      <span class="label-index">#{index}</span> {label?.text ?? "not labelled"}
    </h1>
  );
}

/** What the feature fires on and what it promotes, and the scores of that claim: those held against a null first, the others folded. */
export function LabelDetails({ label }: { label: Label }) {
  const [main, others] = splitScores(label.scores);
  const scorers = [...new Set(label.scores.map((score) => score.scorer))];
  return (
    <>
      <dl class="clauses">
        {label.input_clause !== label.text && (
          <>
            <dt>Input</dt>
            <dd>{label.input_clause || <span class="quiet-text">no simple rule found</span>}</dd>
          </>
        )}
        <dt>Output</dt>
        <dd>{label.output_clause || <span class="quiet-text">nothing clear in the logit lens</span>}</dd>
      </dl>
      {main.map((score) => (
        <ScoreLine key={score.scorer + score.metric} score={score} />
      ))}
      {others.length > 0 && (
        <details class="scores">
          <summary>{others.length === 1 ? "1 more score" : `${others.length} more scores`}</summary>
          {others.map((score) => (
            <ScoreLine key={score.scorer + score.metric} score={score} />
          ))}
        </details>
      )}
      <p class="quiet-text">
        Labelled by {label.labeller}, {scorers.length > 0 ? `scored by ${scorers.join(", ")} on held-out documents` : "not scored yet"}.
      </p>
    </>
  );
}

/** The scores that stand for the label, and the others. */
export function splitScores(scores: readonly Score[]): [Score[], Score[]] {
  const isMain = (score: Score, place: number) => place === 0 || score.lift !== null;
  return [scores.filter(isMain), scores.filter((score, place) => !isMain(score, place))];
}

function ScoreLine({ score }: { score: Score }) {
  const name = score.metric.replaceAll("_", " ");
  if (score.value === null) {
    return (
      <p class="score" data-testid="score">
        <span class="tag warn">no {name}</span> {score.failed}
      </p>
    );
  }
  return (
    <div class="score" data-testid="score">
      <IntervalPlot score={score} value={score.value} />
      <span>
        {name} <b>{format.score(score.value)}</b> {format.interval(score.low, score.high, format.score)}
      </span>
      {score.null !== null && <span title="The same score with labels of other features">null {format.score(score.null)}</span>}
      {score.lift !== null && (
        <span title="Score minus null, with its 95 % interval">
          lift <b>{format.signed(score.lift)}</b> {format.interval(score.lift_low, score.lift_high, format.score)}
        </span>
      )}
      <span title="Windows it was scored on">n {format.count(score.n)}</span>
      {isUnproven(score) && <span class="tag warn">not better than chance</span>}
      {score.insufficient && <span class="tag warn">too few windows fired</span>}
    </div>
  );
}

/** The score with its interval, and its null as a dashed line, on an axis from 0 to 1. */
function IntervalPlot({ score, value }: { score: Score; value: number }) {
  const x = (share: number) => 4 + 112 * Math.min(1, Math.max(0, share));
  return (
    <svg class="interval" viewBox="0 0 120 18" aria-hidden="true">
      <line class="axis" x1={x(0)} x2={x(1)} y1={9} y2={9} />
      {score.null !== null && <line class="null" x1={x(score.null)} x2={x(score.null)} y1={1} y2={17} />}
      {score.low !== null && score.high !== null && <line class="span" x1={x(score.low)} x2={x(score.high)} y1={9} y2={9} />}
      <circle cx={x(value)} cy={9} r={4} />
    </svg>
  );
}
