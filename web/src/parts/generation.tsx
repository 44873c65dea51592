/** The prompt and how to go on from it. */
import type { SteerRequest } from "../api/records";
import { numeral } from "../state/table";

interface Props {
  request: SteerRequest;
  onRequest: (request: SteerRequest) => void;
}

export function GenerationForm({ request, onRequest }: Props) {
  const change = (part: Partial<SteerRequest>) => onRequest({ ...request, ...part });
  return (
    <>
      <label class="field">
        <span>{request.chat ? "Message" : "Prompt"}</span>
        <textarea
          rows={3}
          placeholder={request.chat ? "Tell me about the sea." : "Once upon a time"}
          value={request.prompt}
          onInput={(event) => change({ prompt: event.currentTarget.value })}
          onKeyDown={submitOnEnter}
        />
      </label>
      <div class="options">
        <Switch name="Chat" hint="Put the prompt through the chat template" on={request.chat} onSwitch={(chat) => change({ chat })} />
        <Switch
          name="Edit the prompt too"
          hint="Change the prompt's tokens, not only the generated ones"
          on={request.edit_prompt}
          onSwitch={(edit_prompt) => change({ edit_prompt })}
        />
        <Amount
          name="Max tokens"
          low={1}
          high={512}
          step={1}
          value={request.max_tokens}
          onAmount={(max_tokens) => change({ max_tokens })}
        />
        <Amount
          name="Temperature"
          low={0}
          high={5}
          step={0.1}
          value={request.temperature}
          onAmount={(temperature) => change({ temperature })}
        />
        <Amount name="Seed" low={0} high={2 ** 31 - 1} step={1} value={request.seed} onAmount={(seed) => change({ seed })} />
      </div>
    </>
  );
}

/** Ctrl+Enter or Cmd+Enter generates. */
function submitOnEnter(event: KeyboardEvent): void {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) (event.currentTarget as HTMLTextAreaElement).form?.requestSubmit();
}

interface SwitchProps {
  name: string;
  hint: string;
  on: boolean;
  onSwitch: (on: boolean) => void;
}

const Switch = ({ name, hint, on, onSwitch }: SwitchProps) => (
  <label class="check" title={hint}>
    <input type="checkbox" checked={on} onChange={(event) => onSwitch(event.currentTarget.checked)} /> {name}
  </label>
);

interface AmountProps {
  name: string;
  low: number;
  high: number;
  step: number;
  value: number;
  onAmount: (value: number) => void;
}

function Amount({ name, low, high, step, value, onAmount }: AmountProps) {
  const take = (text: string) => {
    const given = numeral(text);
    if (given !== null) onAmount(Math.min(high, Math.max(low, given)));
  };
  return (
    <label class="field narrow">
      <span>{name}</span>
      <input type="number" min={low} max={high} step={step} value={value} onChange={(event) => take(event.currentTarget.value)} />
    </label>
  );
}
