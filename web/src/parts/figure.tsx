/** A plotly figure made by the server. The library is fetched when the first figure comes into view. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { getFigure, type Place } from "../api/client";
import type { PlotlyFigure } from "../api/records";
import { useLoad } from "./load";
import { Failure, Loading } from "./states";

type Layout = PlotlyFigure["layout"];

interface Props {
  place: Place;
  /** Where it lies in the API, below the dictionary: `figures/training`. */
  path: string;
  /** Asks for the figure again when it changes. */
  version?: number;
}

export function Figure({ place, path, version = 0 }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const seen = useSignal(false);
  const key = seen.value ? `${place.model}/${place.source}/${path}#${version}` : null;
  const { data, error } = useLoad(key, (stop) => getFigure(place, path, stop));
  useEffect(() => {
    const observer = new IntersectionObserver(([entry]) => {
      if (entry?.isIntersecting) seen.value = true;
    });
    if (box.current) observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (!data || !box.current) return undefined;
    const element = box.current;
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const paint = () => void draw(element, data);
    paint();
    dark.addEventListener("change", paint);
    return () => dark.removeEventListener("change", paint);
  }, [data]);
  return (
    <figure class="figure">
      <figcaption class="quiet-text">{data ? titleOf(data.layout) : ""}</figcaption>
      {error && <Failure error={error} />}
      {!data && !error && <Loading what="the figure" />}
      <div ref={box} class="plot" hidden={error !== null} data-testid="figure" />
    </figure>
  );
}

async function draw(element: HTMLElement, { data, layout }: PlotlyFigure): Promise<void> {
  const { default: plotly } = await import("plotly.js-basic-dist-min");
  const style = getComputedStyle(element);
  const own = themed(layout, (name) => style.getPropertyValue(name).trim());
  const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom"; // a finger that scrolls the page must not zoom
  await plotly.react(element, data, { ...own, dragmode }, { responsive: true, displayModeBar: false });
}

/** The layout in the page's own colours and size; its title stands above as the caption. */
export function themed(layout: Layout, colour: (name: string) => string): Layout {
  const { title: _, width: __, height: ___, ...rest } = layout;
  const lines = { gridcolor: colour("--line"), linecolor: colour("--line") };
  const decades = { dtick: 1 }; // the digits that plotly writes between powers of ten are too small to read
  const axes = Object.entries(layout).filter(([key]) => /^[xy]axis\d*$/.test(key)) as [string, { type?: string }][];
  return {
    ...rest,
    ...Object.fromEntries(axes.map(([key, axis]) => [key, { ...axis, ...lines, ...(axis.type === "log" ? decades : {}) }])),
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    font: { family: "system-ui, sans-serif", size: 13, color: colour("--text") },
    margin: { l: 60, r: 12, t: 16, b: 48 },
    autosize: true,
  };
}

/** The title that the server gave the figure. */
export function titleOf(layout: Layout): string {
  const { title } = layout as { title?: string | { text?: string } };
  return (typeof title === "object" ? title.text : title) ?? "";
}
