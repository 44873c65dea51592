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

/** What the feature fires on and what it promotes, and the scores of that claim. */
export function LabelDetails({ label }: { label: Label }) {
  return (
    <>
      <dl class="clauses">
        <dt>Input</dt>
        <dd>{label.input_clause || <span class="quiet-text">no simple rule found</span>}</dd>
        <dt>Output</dt>
        <dd>{label.output_clause || <span class="quiet-text">nothing clear in the logit lens</span>}</dd>
      </dl>
      {label.scores.length === 0 && <p class="quiet-text">Labelled by {label.labeller}; not scored yet.</p>}
      {label.scores.map((score) => (
        <ScoreLine key={score.scorer + score.metric} score={score} labeller={label.labeller} />
      ))}
    </>
  );
}

function ScoreLine({ score, labeller }: { score: Score; labeller: string }) {
  const by = `labelled by ${labeller}, scored by ${score.scorer}`;
  if (score.value === null) {
    return (
      <p class="score">
        <span class="tag warn">no {score.metric}</span> {score.failed} <span class="quiet-text">({by})</span>
      </p>
    );
  }
  return (
    <div class="score" data-testid="score">
      <IntervalPlot score={score} value={score.value} />
      <span>
        {score.metric} <b>{format.score(score.value)}</b> {format.interval(score.low, score.high, format.score)}
      </span>
      <span title="The same score with labels of other features">null {format.score(score.null)}</span>
      <span title="Score minus null, with its 95 % interval">
        lift <b>{format.signed(score.lift)}</b> {format.interval(score.lift_low, score.lift_high, format.score)}
      </span>
      <span>n {format.count(score.n)}</span>
      {isUnproven(score) && <span class="tag warn">not better than chance</span>}
      {score.insufficient && <span class="tag warn">too few windows fired</span>}
      <span class="quiet-text">{by}</span>
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
