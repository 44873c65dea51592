/** One change of one feature: operation, strength, unit. */
import { getFeature, type Place } from "../api/client";
import type { Intervention } from "../api/records";
import * as format from "../format";
import { featureLink } from "../links";
import { FORMULAS, OPS, type Op, sliderRange, type Unit } from "../state/steer";
import { numeral } from "../state/table";
import { useLoad } from "./load";
import { Failure } from "./states";

interface Props {
  place: Place;
  change: Intervention;
  onChange: (change: Intervention) => void;
  onRemove: () => void;
}

export function ChangeEditor({ place, change, onChange, onRemove }: Props) {
  const { feature, op } = change;
  const { data, error } = useLoad(`${place.model}/${place.source}/${feature}`, (stop) => getFeature(place, feature, stop));
  return (
    <section class="change" aria-label={`Change of feature ${feature}`} data-testid={`change-${feature}`}>
      <div class="change-head">
        <a href={featureLink(place, feature)}>
          <span class="quiet-text">#{feature}</span> {data ? (data.label?.text ?? "not labelled") : ""}
        </a>
        <code title="x: activation, d: the feature's direction, z: its activation, s: strength">{FORMULAS[op]}</code>
        <button type="button" class="quiet" onClick={onRemove} aria-label={`Remove feature ${feature}`} title="Remove">
          ✕
        </button>
      </div>
      {error && <Failure error={error} />}
      <div class="change-body">
        <label class="field">
          <span>Operation</span>
          <select value={op} onChange={(event) => onChange({ ...change, op: event.currentTarget.value as Op })}>
            {OPS.map((name) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
        </label>
        {op !== "ablate" && <Strength change={change} max={data?.max ?? 0} onChange={onChange} />}
      </div>
    </section>
  );
}

function Strength({ change, max, onChange }: { change: Intervention; max: number; onChange: Props["onChange"] }) {
  const { low, high, step } = sliderRange(change.op, change.unit, max);
  const take = (text: string) => {
    const strength = numeral(text);
    if (strength !== null) onChange({ ...change, strength });
  };
  return (
    <>
      <label class="field grow">
        <span>Strength</span>
        <input type="range" min={low} max={high} step={step} value={change.strength} onInput={(event) => take(event.currentTarget.value)} />
      </label>
      <input
        type="number"
        class="strength"
        step="any"
        value={change.strength}
        aria-label={`Strength of feature ${change.feature} as a number`}
        onChange={(event) => take(event.currentTarget.value)}
      />
      {change.op === "scale" ? (
        <span class="factor">× its activation</span>
      ) : (
        <label class="field">
          <span>Unit</span>
          <select value={change.unit} onChange={(event) => onChange(inUnit(change, event.currentTarget.value as Unit, max))}>
            <option value="max_act">× max{max > 0 ? ` (${format.number(max)})` : ""}</option>
            <option value="raw">raw</option>
          </select>
        </label>
      )}
    </>
  );
}

/** The same change said in another unit, as far as the feature's maximum is known. */
function inUnit(change: Intervention, unit: Unit, max: number): Intervention {
  const factor = unit === change.unit || max === 0 ? 1 : unit === "raw" ? max : 1 / max;
  return { ...change, unit, strength: Number((change.strength * factor).toPrecision(4)) };
}
