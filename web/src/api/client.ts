/** The API, one function an endpoint. Nothing else in the dashboard calls `fetch`. */
import { EventReader } from "./events";
import type {
  ActivationsRequest,
  Completion,
  Feature,
  FeatureMap,
  FeaturePage,
  FeaturesQuery,
  FiringDocuments,
  LogRow,
  PlotlyFigure,
  Report,
  ReportSummary,
  Run,
  SearchHit,
  Source,
  SteerRequest,
  SteerToken,
  TokenActivations,
} from "./records";

/** What went wrong, as the server said it (RFC 9457: title and detail). `status` is 0 where no server answered. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
  ) {
    super(`${title}: ${detail}`);
  }
}

/** Where a dictionary stands in the API and, without the prefix, in the dashboard. */
export interface Place {
  model: string;
  source: string;
}

type Query = Record<string, string | number | boolean | readonly string[] | null | undefined>;

export const getRuns = (stop: AbortSignal) => ask<Run[]>("/runs", { stop });

export const getSource = (place: Place, stop: AbortSignal) => ask<Source>(root(place), { stop });

export const getLog = (place: Place, after: number, stop: AbortSignal) => ask<LogRow[]>(`${root(place)}/log`, { query: { after }, stop });

/** `path`: below the dictionary's, such as `figures/training`. */
export const getFigure = (place: Place, path: string, stop: AbortSignal) => ask<PlotlyFigure>(`${root(place)}/${path}`, { stop });

export const getFeatures = (place: Place, query: FeaturesQuery, stop?: AbortSignal) =>
  ask<FeaturePage>(`${root(place)}/features`, { query, stop });

export const getFeature = (place: Place, index: number, stop: AbortSignal) => ask<Feature>(`${root(place)}/features/${index}`, { stop });

export const getDocuments = (place: Place, index: number, cursor: string | null, stop: AbortSignal) =>
  ask<FiringDocuments>(`${root(place)}/features/${index}/documents`, { query: { cursor }, stop });

export const getMap = (place: Place, stop: AbortSignal) => ask<FeatureMap>(`${root(place)}/map`, { stop });

export const getReports = (place: Place, stop: AbortSignal) => ask<ReportSummary[]>(`${root(place)}/reports`, { stop });

export const getReport = (place: Place, name: string, stop: AbortSignal) =>
  ask<Report>(`${root(place)}/reports/${encodeURIComponent(name)}`, { stop });

export const searchLabels = (q: string, limit: number, stop: AbortSignal) => ask<SearchHit[]>("/search", { query: { q, limit }, stop });

/** Features of one dictionary whose labels mean something alike, closest first. */
export const searchMeaning = ({ model, source }: Place, q: string, limit: number, stop: AbortSignal) =>
  ask<SearchHit[]>("/search", { query: { q, limit, mode: "meaning", model, source }, stop });

export const readText = (place: Place, body: ActivationsRequest, stop: AbortSignal) =>
  ask<TokenActivations>(`${root(place)}/activations`, { body, stop });

/** Generates base and steered text: every token as it comes, the completion at the end. Abort `stop` to end the generation. */
export async function* streamSteer(place: Place, body: SteerRequest, stop: AbortSignal): AsyncGenerator<SteerToken | Completion> {
  const response = await send(`${root(place)}/steer/stream`, { body, stop });
  if (!response.body) throw new ApiError(response.status, "Empty answer", "The server sent no text.");
  const events = new EventReader();
  for await (const piece of pieces(response.body)) {
    for (const event of events.read(piece)) {
      if (event.name === "token") yield JSON.parse(event.data) as SteerToken;
      if (event.name === "completion") yield JSON.parse(event.data) as Completion;
      if (event.name === "error") throw asError(500, event.data);
    }
  }
}

const root = ({ model, source }: Place) => `/models/${encodeURIComponent(model)}/sources/${encodeURIComponent(source)}`;

interface Options {
  query?: Query;
  body?: object;
  stop?: AbortSignal;
}

async function ask<T>(path: string, options: Options): Promise<T> {
  const response = await send(path, options);
  return (await response.json()) as T;
}

async function send(path: string, { query = {}, body, stop }: Options): Promise<Response> {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const pairs = given.flatMap(([key, value]) => (Array.isArray(value) ? value : [value]).map((item) => [key, String(item)]));
  const search = new URLSearchParams(pairs).toString();
  const init: RequestInit = body ? { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : {};
  let response: Response;
  try {
    response = await fetch(`/api/v1${path}${search ? `?${search}` : ""}`, { ...init, signal: stop });
  } catch (error) {
    if (stop?.aborted) throw error;
    throw new ApiError(0, "No answer", "The server cannot be reached. Is `saelab serve` still running?");
  }
  if (!response.ok) throw asError(response.status, await response.text());
  return response;
}

function asError(status: number, text: string): ApiError {
  try {
    const { status: told, title, detail } = JSON.parse(text) as { status?: number; title?: string; detail?: unknown };
    const words = typeof detail === "string" ? detail : JSON.stringify(detail ?? "");
    return new ApiError(told ?? status, title ?? `Error ${status}`, words);
  } catch {
    return new ApiError(status, `Error ${status}`, text.slice(0, 300) || "The server gave no reason.");
  }
}

async function* pieces(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield decoder.decode(part.value, { stream: true });
  } finally {
    await reader.cancel();
  }
}
