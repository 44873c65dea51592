/** What the steering page is set to, kept in the address so that a run can be shared. */
import type { Intervention, SteerRequest } from "../api/records";
import { numeral } from "./table";

export type Op = Intervention["op"];
export type Unit = NonNullable<Intervention["unit"]>;

export const OPS: readonly Op[] = ["add", "clamp", "scale", "ablate"];

/** What each operation does to the residual x; z is the feature's activation, d its direction, s the strength. */
export const FORMULAS: Record<Op, string> = {
  add: "x + s·d",
  clamp: "x + (s − z)·d",
  scale: "x + (s − 1)·z·d",
  ablate: "x − z·d",
};

const DEFAULTS: SteerRequest = {
  prompt: "",
  interventions: [],
  chat: false,
  max_tokens: 60,
  temperature: 0,
  seed: 0,
  edit_prompt: true,
};

/** A change of `feature` as first offered: two times its strongest activation added, where steering usually begins to show. */
export const freshChange = (feature: number): Intervention => ({ feature, op: "add", strength: 1.5, unit: "max_act" });

/** The request written in the query of an address. What is missing or makes no sense takes its default. */
export function readSteer(search: string): SteerRequest {
  const query = new URLSearchParams(search);
  const inRange = (name: string, low: number, high: number, fallback: number) => {
    const value = numeral(query.get(name));
    return value === null ? fallback : Math.min(high, Math.max(low, value));
  };
  return {
    prompt: query.get("prompt") ?? "",
    interventions: query
      .getAll("feature")
      .map(readChange)
      .filter((change) => change !== null),
    chat: query.get("chat") === "true",
    max_tokens: Math.round(inRange("max_tokens", 1, 512, DEFAULTS.max_tokens)),
    temperature: inRange("temperature", 0, 5, DEFAULTS.temperature),
    seed: Math.round(inRange("seed", 0, 2 ** 31 - 1, DEFAULTS.seed)),
    edit_prompt: query.get("edit_prompt") !== "false",
  };
}

/** The query of an address, with a leading `?`, without the defaults. */
export function writeSteer(request: SteerRequest): string {
  const query = new URLSearchParams();
  for (const change of request.interventions) query.append("feature", writeChange(change));
  for (const name of ["prompt", "chat", "max_tokens", "temperature", "seed", "edit_prompt"] as const) {
    if (request[name] !== DEFAULTS[name]) query.set(name, String(request[name]));
  }
  return query.size > 0 ? `?${query.toString().replaceAll("%3A", ":")}` : "";
}

/** `12:add:2:max_act`; an operation without a strength or a unit leaves them out. */
function writeChange({ feature, op, strength, unit }: Intervention): string {
  if (op === "ablate") return `${feature}:ablate`;
  return op === "scale" ? `${feature}:scale:${strength}` : `${feature}:${op}:${strength}:${unit}`;
}

function readChange(text: string): Intervention | null {
  const [feature = "", op, strength, unit] = text.split(":");
  if (!/^\d+$/.test(feature)) return null;
  const fresh = freshChange(Number(feature));
  return {
    feature: fresh.feature,
    op: OPS.find((name) => name === op) ?? fresh.op,
    strength: numeral(strength ?? null) ?? fresh.strength,
    unit: unit === "raw" ? "raw" : "max_act",
  };
}

/** Ends and step of the strength slider. `max` is the feature's largest activation, where known. */
export function sliderRange(op: Op, unit: Unit, max: number): { low: number; high: number; step: number } {
  if (op === "scale") return { low: 0, high: 10, step: 0.1 };
  if (unit === "max_act") return { low: -10, high: 10, step: 0.1 };
  const high = Math.ceil(10 * max) || 10;
  return { low: -high, high, step: high / 100 };
}

/** Index of the first token that differs; none while one list is the beginning of the other. */
export function firstDifference(one: readonly string[], other: readonly string[]): number | null {
  const index = one.findIndex((token, place) => place < other.length && token !== other[place]);
  return index < 0 ? null : index;
}
