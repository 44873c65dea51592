/**
 * Points on a canvas, to look around in and to pick one of.
 *
 * Not plotly's: its scattergl compiles code from strings, which the content security policy refuses, and its bundle that needs none
 * weighs four times as much; its plain scatter makes an element of every point.
 */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { beside, type Classes, fit, nearest, reveal, type View, zoom } from "./plane";

interface Props {
  x: readonly number[];
  y: readonly number[];
  classes: Classes;
  /** Colour of each class, as CSS. */
  colours: readonly string[];
  /** The point in a ring. */
  chosen: number | null;
  /** What the picture shows. */
  label: string;
  onChoose: (index: number | null) => void;
  onOpen: (index: number) => void;
}

/** Pixels from a point within which it is meant. */
const REACH = 12;
const ARROWS: Record<string, [number, number]> = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export function Scatter(props: Props) {
  const { x, y, classes, colours, chosen, label, onChoose, onOpen } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const view = useSignal<View | null>(null);
  const drag = useRef<{ x: number; y: number; moved: boolean } | null>(null);
  const now = useRef(props);
  now.current = props;

  const whole = () => fit(now.current.x, now.current.y, canvas.current!.clientWidth, canvas.current!.clientHeight);
  /** The view, moved where the chosen point would not be seen. */
  const shown = (from: View) => {
    const { clientWidth, clientHeight } = canvas.current!;
    const index = now.current.chosen;
    return index === null ? from : reveal(from, now.current.x[index]!, now.current.y[index]!, clientWidth, clientHeight);
  };
  const paint = () => {
    if (canvas.current) draw(canvas.current, now.current, (view.value ??= whole()));
  };
  const zoomed = (factor: number, px?: number, py?: number) => {
    const { clientWidth, clientHeight } = canvas.current!;
    view.value = zoom(view.value ?? whole(), factor, px ?? clientWidth / 2, py ?? clientHeight / 2);
  };

  useEffect(() => {
    const frame = requestAnimationFrame(paint);
    return () => cancelAnimationFrame(frame);
  }, [x, classes, colours, view.value]);

  useEffect(() => {
    const element = canvas.current!;
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const onWheel = (event: WheelEvent) => {
      event.preventDefault(); // the page must not scroll, which only a listener that is not passive can prevent
      zoomed(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    };
    const size = new ResizeObserver(() => {
      if (!canvas.current) return; // it also hears of the end of the page
      view.value = shown(whole());
      paint();
    });
    size.observe(element);
    dark.addEventListener("change", paint);
    element.addEventListener("wheel", onWheel, { passive: false });
    return () => {
      size.disconnect();
      dark.removeEventListener("change", paint);
      element.removeEventListener("wheel", onWheel);
    };
  }, []);

  useEffect(() => {
    if (canvas.current) view.value = shown(view.value ?? whole()); // not while the page is being left
  }, [chosen]);

  const at = (event: PointerEvent | MouseEvent) => nearest(x, y, view.value ?? whole(), event.offsetX, event.offsetY, REACH);
  const onMove = (event: PointerEvent) => {
    const from = drag.current;
    if (!from) return onChoose(at(event) ?? chosen);
    const [dx, dy] = [event.offsetX - from.x, event.offsetY - from.y];
    if (!from.moved && Math.hypot(dx, dy) < 4) return undefined;
    drag.current = { x: event.offsetX, y: event.offsetY, moved: true };
    const { scale, left, top } = view.value ?? whole();
    view.value = { scale, left: left + dx, top: top + dy };
    return undefined;
  };
  const onDown = (event: PointerEvent) => {
    drag.current = { x: event.offsetX, y: event.offsetY, moved: false };
    canvas.current!.setPointerCapture(event.pointerId);
  };
  const onUp = (event: PointerEvent) => {
    const picked = drag.current && !drag.current.moved ? at(event) : null;
    drag.current = null;
    if (picked === null) return;
    if (event.pointerType === "mouse") onOpen(picked);
    else onChoose(picked); // a finger cannot point before it picks: it opens the feature by the link below
  };
  const onKey = (event: KeyboardEvent) => {
    const arrow = ARROWS[event.key];
    if (event.key === "Enter" && chosen !== null) onOpen(chosen);
    else if (arrow) onChoose(chosen === null ? 0 : beside(x, y, chosen, ...arrow));
    else if (event.key === "+") zoomed(1.5);
    else if (event.key === "-") zoomed(1 / 1.5);
    else if (event.key === "0") view.value = whole();
    else return;
    event.preventDefault();
  };

  const seen = view.value;
  const ring = seen && chosen !== null && { left: seen.left + x[chosen]! * seen.scale, top: seen.top - y[chosen]! * seen.scale };
  return (
    <div class="scatter">
      <canvas
        ref={canvas}
        role="application"
        aria-label={`${label}. Arrows go to the next feature, Enter opens it, plus, minus and 0 change the view.`}
        tabIndex={0}
        data-testid="scatter"
        onPointerMove={onMove}
        onPointerDown={onDown}
        onPointerUp={onUp}
        onKeyDown={onKey}
      />
      {ring && <span class="ring" style={{ left: `${ring.left}px`, top: `${ring.top}px` }} />}
      <div class="scatter-buttons">
        <button type="button" aria-label="Nearer" title="Nearer (+)" onClick={() => zoomed(1.5)}>
          +
        </button>
        <button type="button" aria-label="Farther" title="Farther (-)" onClick={() => zoomed(1 / 1.5)}>
          −
        </button>
        <button type="button" aria-label="As at first" title="As at first (0)" onClick={() => (view.value = whole())}>
          ⤢
        </button>
      </div>
    </div>
  );
}

/** Paints the points as squares, class by class. Straight into the pixels: a call of the canvas for each point takes ten times as long. */
function draw(canvas: HTMLCanvasElement, { x, y, classes: { order, begin }, colours }: Props, { scale, left, top }: View): void {
  const ratio = devicePixelRatio;
  const width = (canvas.width = Math.round(canvas.clientWidth * ratio)); // also wipes it
  const height = (canvas.height = Math.round(canvas.clientHeight * ratio));
  if (width === 0 || height === 0) return;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  const size = Math.round(ratio * Math.min(4, Math.max(1.5, Math.sqrt((width * height) / order.length) / ratio / 4)));
  const inks = colours.map((colour) => ink(context, colour));
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let number = 0; number + 1 < begin.length; number++) {
    for (let place = begin[number]!; place < begin[number + 1]!; place++) {
      const px = Math.round((left + x[order[place]!]! * scale) * ratio - size / 2);
      const py = Math.round((top - y[order[place]!]! * scale) * ratio - size / 2);
      if (px < 0 || py < 0 || px + size > width || py + size > height) continue;
      for (let row = py; row < py + size; row++) pixels.fill(inks[number]!, row * width + px, row * width + px + size);
    }
  }
  context.putImageData(image, 0, 0);
}

/** A colour of the style sheets as the four bytes of a pixel. */
function ink(context: CanvasRenderingContext2D, css: string): number {
  const style = getComputedStyle(context.canvas);
  context.fillStyle = css.replaceAll(/var\((--[\w-]+)\)/g, (_, name: string) => style.getPropertyValue(name).trim());
  context.fillRect(0, 0, 1, 1);
  return new Uint32Array(context.getImageData(0, 0, 1, 1).data.buffer)[0]!;
}
