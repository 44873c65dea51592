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
  }, [x, classes, colours, chosen, view.value]);

  useEffect(() => {
    const element = canvas.current!;
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const onWheel = (event: WheelEvent) => {
      event.preventDefault(); // the page must not scroll, which only a listener that is not passive can prevent
      zoomed(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    };
    const size = new ResizeObserver(() => {
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

  useEffect(() => void (view.value = shown(view.value ?? whole())), [chosen]);

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

/** Paints the classes one after another: the colour is set once for each, not for each point. */
function draw(canvas: HTMLCanvasElement, { x, y, classes: { order, begin }, colours, chosen }: Props, { scale, left, top }: View): void {
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = devicePixelRatio;
  canvas.width = width * ratio; // also wipes it
  canvas.height = height * ratio;
  const context = canvas.getContext("2d")!;
  context.scale(ratio, ratio);
  const style = getComputedStyle(canvas);
  const colour = (css: string) => css.replaceAll(/var\((--[\w-]+)\)/g, (_, name: string) => style.getPropertyValue(name).trim());
  const size = Math.min(5, Math.max(1.5, Math.sqrt((width * height) / order.length) / 4));
  for (let number = 0; number + 1 < begin.length; number++) {
    context.fillStyle = colour(colours[number]!);
    for (let place = begin[number]!; place < begin[number + 1]!; place++) {
      const px = left + x[order[place]!]! * scale;
      const py = top - y[order[place]!]! * scale;
      if (px > -size && px < width + size && py > -size && py < height + size) context.fillRect(px - size / 2, py - size / 2, size, size);
    }
  }
  if (chosen === null) return;
  context.strokeStyle = colour("var(--text)");
  context.lineWidth = 2;
  context.beginPath();
  context.arc(left + x[chosen]! * scale, top - y[chosen]! * scale, size / 2 + 5, 0, 2 * Math.PI);
  context.stroke();
}
