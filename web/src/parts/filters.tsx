/** What narrows the feature table. */
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { isByMeaning, isFiltered, MODES, type Mode, numeral, readTable, TAGS, type TableState } from "../state/table";
import { useRested } from "./load";

interface Props {
  state: TableState;
  onState: (state: TableState) => void;
}

export function Filters({ state, onState }: Props) {
  const change = (part: Partial<TableState>) => onState({ ...state, ...part });
  const clear = () => onState({ ...readTable(""), sort: state.sort, descending: state.descending, mode: state.mode });
  return (
    <form class="filters" role="search" aria-label="Filter features" onSubmit={(event) => event.preventDefault()}>
      <Words state={state} onWords={(q) => change({ q })} />
      <label class="field">
        <span>Search by</span>
        <select value={state.mode} onChange={(event) => change({ mode: event.currentTarget.value as Mode })}>
          {MODES.map((mode) => (
            <option key={mode}>{mode}</option>
          ))}
        </select>
      </label>
      {!isByMeaning(state) && <Narrow state={state} onState={onState} />}
      {isFiltered(state) && (
        <button type="button" class="quiet" onClick={clear}>
          Clear
        </button>
      )}
    </form>
  );
}

/** What narrows the table by the features' own numbers. */
function Narrow({ state, onState }: Props) {
  const change = (part: Partial<TableState>) => onState({ ...state, ...part });
  return (
    <>
      <Choice name="Firing" yes="dead" no="alive" value={state.dead} onChoice={(dead) => change({ dead })} />
      <Choice name="Label" yes="labelled" no="not labelled" value={state.labelled} onChoice={(labelled) => change({ labelled })} />
      <label class="field">
        <span>Tag</span>
        <select value={state.tag} onChange={(event) => change({ tag: event.currentTarget.value })}>
          <option value="">any</option>
          {TAGS.map((tag) => (
            <option key={tag}>{tag}</option>
          ))}
        </select>
      </label>
      <Least
        name="Min density, %"
        step="0.01"
        value={state.minDensity === null ? null : Number((state.minDensity * 100).toPrecision(6))}
        onLeast={(value) => change({ minDensity: value === null ? null : Number((value / 100).toPrecision(6)) })}
      />
      <Least name="Min lift" step="0.05" value={state.minLift} onLeast={(minLift) => change({ minLift })} />
    </>
  );
}

/** The search box; it asks when the typing rests. */
function Words({ state: { q, mode }, onWords }: { state: TableState; onWords: (q: string) => void }) {
  const typed = useSignal(q);
  const rested = useRested(typed.value, 250);
  useEffect(() => {
    if (rested !== q && rested === typed.peek()) onWords(rested);
  }, [rested]);
  useEffect(() => void (typed.value = q), [q]);
  return (
    <label class="field grow">
      <span>{mode === "words" ? "Search labels and tokens" : "Search by what labels mean"}</span>
      <input type="search" data-search value={typed.value} onInput={(event) => (typed.value = event.currentTarget.value)} />
    </label>
  );
}

interface ChoiceProps {
  name: string;
  yes: string;
  no: string;
  value: boolean | null;
  onChoice: (value: boolean | null) => void;
}

function Choice({ name, yes, no, value, onChoice }: ChoiceProps) {
  const read = (text: string) => onChoice(text === "" ? null : text === "true");
  return (
    <label class="field">
      <span>{name}</span>
      <select value={value === null ? "" : String(value)} onChange={(event) => read(event.currentTarget.value)}>
        <option value="">all</option>
        <option value="true">{yes}</option>
        <option value="false">{no}</option>
      </select>
    </label>
  );
}

interface LeastProps {
  name: string;
  step: string;
  value: number | null;
  onLeast: (value: number | null) => void;
}

function Least({ name, step, value, onLeast }: LeastProps) {
  return (
    <label class="field narrow">
      <span>{name}</span>
      <input type="number" step={step} value={value ?? ""} onChange={(event) => onLeast(numeral(event.currentTarget.value))} />
    </label>
  );
}
