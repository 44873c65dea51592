/** One change of one feature: operation, strength, unit. */
import { type Place, getFeature } from "../api/client";
import type { Intervention } from "../api/records";
import * as format from "../format";
import { featureLink } from "../links";
import { FORMULAS, OPS, type Op, sliderRange, type Unit } from "../state/steer";
import { numeral } from "../state/table";
import { useLoad } from "./load";

interface Props {
  place: Place;
  change: Intervention;
  onChange: (change: Intervention) => void;
  onRemove: () => void;
}

export function ChangeEditor({ place, change, onChange, onRemove }: Props) {
  const { feature, op, unit } = change;
  const { data, error } = useLoad(`${place.model}/${place.source}/${feature}`, (stop) => getFeature(place, feature, stop));
  return (
    <fieldset class="change" data-testid={`change-${feature}`}>
      <legend>
        <a href={featureLink(place, feature)}>
          <span class="quiet-text">#{feature}</span> {data?.label?.text ?? (error ? "" : "not labelled")}
        </a>
      </legend>
      {error && <p class="tag warn">{error.detail}</p>}
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
      {(op === "add" || op === "clamp") && (
        <label class="field">
          <span>Unit</span>
          <select value={unit} onChange={(event) => onChange(inUnit(change, event.currentTarget.value as Unit, data?.max ?? 0))}>
            <option value="max_act">× max activation{data ? ` (${format.number(data.max)})` : ""}</option>
            <option value="raw">raw activation</option>
          </select>
        </label>
      )}
      <code class="formula" title="x: activation, d: the feature's direction, z: its activation, s: strength">
        {FORMULAS[op]}
      </code>
      <button type="button" class="quiet" onClick={onRemove} aria-label={`Remove feature ${feature}`} title="Remove">
        ✕
      </button>
    </fieldset>
  );
}

function Strength({ change, max, onChange }: { change: Intervention; max: number; onChange: Props["onChange"] }) {
  const { low, high, step } = sliderRange(change.op, change.unit, max);
  const unit = change.op === "scale" ? "×" : change.unit === "max_act" ? "× max" : "raw";
  const take = (text: string) => {
    const strength = numeral(text);
    if (strength !== null) onChange({ ...change, strength });
  };
  return (
    <div class="strength">
      <label class="field grow">
        <span>Strength</span>
        <input type="range" min={low} max={high} step={step} value={change.strength} onInput={(event) => take(event.currentTarget.value)} />
      </label>
      <input
        type="number"
        step="any"
        value={change.strength}
        aria-label={`Strength of feature ${change.feature} as a number`}
        onChange={(event) => take(event.currentTarget.value)}
      />
      <span class="unit">{unit}</span>
    </div>
  );
}

/** The same change said in another unit, as far as the feature's maximum is known. */
function inUnit(change: Intervention, unit: Unit, max: number): Intervention {
  const factor = unit === change.unit || max === 0 ? 1 : unit === "raw" ? max : 1 / max;
  return { ...change, unit, strength: Number((change.strength * factor).toPrecision(4)) };
}
