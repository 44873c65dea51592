/** Keys of the keyboard, and the page that lists them. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

export interface Key {
  /** As `KeyboardEvent.key` says it. */
  key: string;
  /** What it does, for the list. */
  does: string;
  run: () => void;
}

/** Keys whose name is not what stands on them. */
const NAMES: Record<string, string> = { ArrowLeft: "←", ArrowRight: "→" };

const layers = new Set<{ keys: Key[] }>();

/** Lets `keys` work while the component is shown. */
export function useKeys(keys: Key[]): void {
  const layer = useRef({ keys });
  layer.current.keys = keys;
  useEffect(() => {
    layers.add(layer.current);
    return () => void layers.delete(layer.current);
  }, []);
}

/** True where a key press is text: in a field that takes text. */
function isTyping(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && target.matches("textarea, select, input:not([type=checkbox], [type=range])");
}

function onKey(event: KeyboardEvent): void {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape") (event.target as HTMLElement).blur();
    return;
  }
  const key = [...layers].flatMap((layer) => layer.keys).find((one) => one.key === event.key);
  if (!key) return;
  event.preventDefault();
  key.run();
}

/** Puts the cursor into the page's search field. */
function focusSearch(): void {
  document.querySelector<HTMLElement>("[data-search]")?.focus();
}

/** The button `?` and the list of keys that it opens. */
export function KeyHelp() {
  const dialog = useRef<HTMLDialogElement>(null);
  const listed = useSignal<Key[]>([]);
  const open = () => {
    listed.value = [...layers].flatMap((layer) => layer.keys);
    dialog.current?.showModal();
  };
  useKeys([
    { key: "/", does: "go to the search field", run: focusSearch },
    { key: "?", does: "show this list", run: open },
  ]);
  useEffect(() => {
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  return (
    <>
      <button type="button" class="quiet" onClick={open} aria-label="Keyboard keys" title="Keyboard keys (?)">
        ?
      </button>
      <dialog ref={dialog} aria-labelledby="keys-title" data-testid="keys">
        <form method="dialog">
          <h2 id="keys-title">Keys on this page</h2>
          <dl class="keys">
            {listed.value.map(({ key, does }) => (
              <div key={key}>
                <dt>
                  <kbd>{NAMES[key] ?? key}</kbd>
                </dt>
                <dd>{does}</dd>
              </div>
            ))}
          </dl>
          <button type="submit">Close</button>
        </form>
      </dialog>
    </>
  );
}
