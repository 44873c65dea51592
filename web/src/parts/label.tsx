/** A label: the claim, and how sure it is. */
import type { Label } from "../api/records";

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

/** What the feature fires on and what it promotes, and who says so. */
export function LabelDetails({ label }: { label: Label }) {
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
      <p class="quiet-text">
        Labelled by {label.labeller}, {scorers.length > 0 ? `scored by ${scorers.join(", ")} on held-out documents` : "not scored yet"}.
      </p>
    </>
  );
}
