/** A generation under way: base and steered text as their tokens come. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { type ApiError, type Place, streamSteer } from "../api/client";
import type { Completion, SteerRequest } from "../api/records";
import { asApiError } from "./load";

export type Phase = "idle" | "running" | "stopped" | "done" | "failed";

export interface Texts {
  phase: Phase;
  /** What the texts go on from; empty for a chat. */
  prompt: string;
  base: string[];
  steered: string[];
  completion: Completion | null;
  error: ApiError | null;
}

const EMPTY: Texts = { phase: "idle", prompt: "", base: [], steered: [], completion: null, error: null };

/** The texts so far, and functions that start and stop them. A new start, like leaving the page, stops the one before. */
export function useSteering(place: Place): { texts: Texts; start: (request: SteerRequest) => void; stop: () => void } {
  const texts = useSignal<Texts>(EMPTY);
  const control = useRef<AbortController | null>(null);
  useEffect(() => () => control.current?.abort(), []);

  const start = async (request: SteerRequest) => {
    control.current?.abort();
    const mine = new AbortController();
    control.current = mine;
    texts.value = { ...EMPTY, phase: "running", prompt: request.chat ? "" : request.prompt };
    try {
      for await (const event of streamSteer(place, request, mine.signal)) {
        if (control.current !== mine) return;
        texts.value =
          "token" in event ? grown(texts.peek(), event.text, event.token) : { ...texts.peek(), completion: event, phase: "done" };
      }
      if (texts.peek().phase === "running") texts.value = { ...texts.peek(), phase: "stopped" };
    } catch (problem) {
      if (control.current !== mine || mine.signal.aborted) return;
      texts.value = { ...texts.peek(), phase: "failed", error: asApiError(problem) };
    }
  };
  const stop = () => {
    control.current?.abort();
    if (texts.peek().phase === "running") texts.value = { ...texts.peek(), phase: "stopped" };
  };
  return { texts: texts.value, start: (request) => void start(request), stop };
}

const grown = (texts: Texts, name: "base" | "steered", token: string): Texts => ({ ...texts, [name]: [...texts[name], token] });
