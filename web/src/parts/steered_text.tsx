/** Base and steered text side by side, with how strong the change was. */
import type { Completion } from "../api/records";
import * as format from "../format";
import { firstDifference } from "../state/steer";
import type { Texts } from "./steering";

export function SideBySide({ texts }: { texts: Texts }) {
  const { base, steered, completion } = texts;
  const difference = completion ? completion.first_difference : firstDifference(base, steered);
  return (
    <div class="side-by-side">
      <Pane name="base" title="Base" texts={texts} tokens={base} text={completion?.base} difference={difference} />
      <Pane name="steered" title="Steered" texts={texts} tokens={steered} text={completion?.steered} difference={difference} />
    </div>
  );
}

interface PaneProps {
  name: string;
  title: string;
  texts: Texts;
  tokens: readonly string[];
  /** The finished text; where the tokens do not spell it (a character split over tokens), it is shown in their place. */
  text: string | undefined;
  difference: number | null;
}

function Pane({ name, title, texts: { prompt, phase }, tokens, text, difference }: PaneProps) {
  const spelled = text === undefined || tokens.join("") === text;
  const cut = difference ?? tokens.length;
  const [space, rest] = format.splitSpace(tokens[cut] ?? "");
  return (
    <section class="panel pane" aria-labelledby={`pane-${name}`}>
      <h2 id={`pane-${name}`}>{title}</h2>
      <p class="generated" aria-busy={phase === "running"}>
        {phase === "idle" && <span class="prompt">Nothing generated yet.</span>}
        <span class="prompt">{prompt}</span>
        <span data-testid={`text-${name}`}>
          {spelled ? tokens.slice(0, cut).join("") : text}
          {spelled && cut < tokens.length && (
            <>
              {space}
              <mark class="difference" title="first difference" data-testid={`difference-${name}`}>
                {rest}
              </mark>
            </>
          )}
          {spelled && tokens.slice(cut + 1).join("")}
        </span>
        {phase === "running" && <span class="caret" aria-hidden="true" />}
      </p>
    </section>
  );
}

/** What the completion says about the change. */
export function Reading({ completion }: { completion: Completion }) {
  const { dose, kl, first_difference: difference, num_tokens, seconds, hook } = completion;
  return (
    <dl class="metrics" data-testid="reading">
      <div title="Mean over the edited positions of the change's norm over the activation's norm">
        <dt>dose</dt>
        <dd>
          {format.number(dose)} <small>of the activation's norm</small>
        </dd>
      </div>
      <div title="Mean KL divergence of the steered from the plain prediction along the steered text">
        <dt>KL</dt>
        <dd>
          {format.number(kl)} <small>nats a token</small>
        </dd>
      </div>
      <div>
        <dt>first difference</dt>
        <dd>{difference === null ? "none: the texts are the same" : `token ${difference + 1}`}</dd>
      </div>
      <div>
        <dt>time</dt>
        <dd>
          {format.duration(seconds)} <small>for {num_tokens} tokens</small>
        </dd>
      </div>
      <div>
        <dt>hook</dt>
        <dd>{hook}</dd>
      </div>
    </dl>
  );
}
