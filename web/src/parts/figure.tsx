/** A plotly figure made by the server. The library is fetched when the first figure comes into view. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { getFigure, type Place } from "../api/client";
import type { PlotlyFigure } from "../api/records";
import { useLoad } from "./load";
import { Failure, Loading } from "./states";

interface Props {
  place: Place;
  name: string;
  /** What it shows. */
  title: string;
  /** Asks for the figure again when it changes. */
  version?: number;
}

export function Figure({ place, name, title, version = 0 }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const seen = useSignal(false);
  const key = seen.value ? `${place.model}/${place.source}/${name}#${version}` : null;
  const { data, error } = useLoad(key, (stop) => getFigure(place, name, stop));
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
      <figcaption class="quiet-text">{title}</figcaption>
      {error && <Failure error={error} />}
      {!data && !error && <Loading what="the figure" />}
      <div ref={box} class="plot" data-testid={`figure-${name}`} />
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

/** The layout in the page's own colours and size, without the title, which stands above it. */
export function themed(layout: Record<string, unknown>, colour: (name: string) => string): Record<string, unknown> {
  const axes = Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));
  const lines = { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
  const { template: _, title: __, width: ___, height: ____, ...rest } = layout;
  return {
    ...rest,
    ...Object.fromEntries([...new Set(["xaxis", "yaxis", ...axes])].map((key) => [key, { ...(layout[key] as object | undefined), ...lines }])),
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    colorway: [colour("--accent"), colour("--second"), colour("--third"), colour("--muted")],
    font: { family: "system-ui, sans-serif", size: 13, color: colour("--text") },
    margin: { l: 48, r: 12, t: 30, b: 72 },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", xref: "container", x: 0.5, xanchor: "center" },
    autosize: true,
  };
}
