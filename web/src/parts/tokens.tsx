/** Text whose tokens are shaded by their activation. */
import * as format from "../format";
import { heat } from "../heat";

interface Props {
  tokens: readonly string[];
  values: readonly number[];
  /** The activation that gets the full colour. */
  scale: number;
  /** False at tokens that the dictionary does not read. */
  counted?: readonly boolean[];
  /** Which of the tokens to show. */
  range?: { start: number; end: number };
  /** Index of a token to underline. */
  peak?: number;
  /** Told the token under the pointer or finger; null when it leaves. */
  onPoint?: (index: number | null) => void;
}

/** One line of text; active tokens carry their value as title and description, so that it can be read without colour. */
export function Tokens({ tokens, values, scale, counted, range, peak, onPoint }: Props) {
  const { start, end } = range ?? { start: 0, end: tokens.length };
  const point = (event: Event) => {
    const at = (event.target as HTMLElement).dataset["at"];
    onPoint?.(at === undefined ? null : Number(at));
  };
  return (
    <p class="tokens" onPointerOver={point} onPointerLeave={() => onPoint?.(null)}>
      {start > 0 && <span class="cut">… </span>}
      {tokens.slice(start, end).map((text, place) => {
        const at = start + place;
        return (
          <Token key={at} at={at} text={text} value={values[at] ?? 0} scale={scale} counted={counted?.[at] ?? true} peak={at === peak} />
        );
      })}
      {end < tokens.length && <span class="cut"> …</span>}
    </p>
  );
}

interface TokenProps {
  at: number;
  text: string;
  value: number;
  scale: number;
  counted: boolean;
  peak: boolean;
}

function Token({ at, text, value, scale, counted, peak }: TokenProps) {
  const shown = format.inline(text);
  if (!counted) {
    return (
      <span class="uncounted" title="not read by the dictionary" data-at={at}>
        {shown}
      </span>
    );
  }
  if (value === 0) return <span data-at={at}>{shown}</span>;
  const kind = `${value < 0 ? "cool" : "hot"}${peak ? " peak" : ""}`;
  const words = `activation ${format.number(value)}`;
  const [space, rest] = format.splitSpace(shown);
  return (
    <>
      {space}
      <mark class={kind} style={{ "--heat": `${heat(value, scale)}%` }} title={words} aria-description={words} data-at={at}>
        {rest}
      </mark>
    </>
  );
}

/** A token standing alone, its whitespace made visible. */
export const Chip = ({ text }: { text: string }) => <code class="chip">{format.token(text)}</code>;
