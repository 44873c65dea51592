import { afterEach, describe, expect, test, vi } from "vitest";
import { getFeature, getFeatures, searchMeaning, streamSteer } from "../src/api/client";
import { readSteer } from "../src/state/steer";

const place = { model: "toy", source: "a b" };
const stop = () => new AbortController().signal;

function answer(body: string, init: ResponseInit = {}) {
  const fetch = vi.fn((_address: string, _init?: RequestInit) => Promise.resolve(new Response(body, init)));
  vi.stubGlobal("fetch", fetch);
  return fetch;
}

afterEach(() => vi.unstubAllGlobals());

describe("an answer", () => {
  test("is asked for without the parameters that are not set", async () => {
    const fetch = answer("{}");
    await getFeatures(place, { sort: "lift", dead: null, q: "", min_lift: 0 });
    expect(fetch.mock.calls[0]?.[0]).toBe("/api/v1/models/toy/sources/a%20b/features?sort=lift&min_lift=0");
  });

  test("by meaning is asked for within one dictionary", async () => {
    const fetch = answer("[]");
    await searchMeaning(place, "things that grow", 50, stop());
    expect(fetch.mock.calls[0]?.[0]).toBe("/api/v1/search?q=things+that+grow&limit=50&mode=meaning&model=toy&source=a+b");
  });

  test("that is a problem becomes an error with the server's words", async () => {
    answer(JSON.stringify({ title: "Not found", status: 404, detail: "No feature 9." }), { status: 404 });
    await expect(getFeature(place, 9, stop())).rejects.toMatchObject({ status: 404, title: "Not found", detail: "No feature 9." });
  });

  test("that is no JSON becomes an error with its beginning", async () => {
    answer("<html>gateway", { status: 502 });
    await expect(getFeature(place, 9, stop())).rejects.toMatchObject({ status: 502, detail: "<html>gateway" });
  });

  test("that never comes says that the server cannot be reached", async () => {
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("Failed to fetch")));
    await expect(getFeature(place, 9, stop())).rejects.toMatchObject({ status: 0, title: "No answer" });
  });
});

describe("a steered text", () => {
  const token = { text: "base", token: " é", id: 4 };
  const request = readSteer("prompt=x&feature=1");

  test("comes token by token and ends with the completion", async () => {
    answer(`event: token\ndata: ${JSON.stringify(token)}\n\nevent: completion\ndata: {"base": " é"}\n\n`);
    const events: unknown[] = [];
    for await (const event of streamSteer(place, request, stop())) events.push(event);
    expect(events).toEqual([token, { base: " é" }]);
  });

  test("that fails midway throws the problem after the tokens that came", async () => {
    answer(
      `event: token\ndata: ${JSON.stringify(token)}\n\nevent: error\ndata: {"title": "Busy", "status": 503, "detail": "Try again."}\n\n`,
    );
    const events = streamSteer(place, request, stop());
    expect((await events.next()).value).toEqual(token);
    await expect(events.next()).rejects.toMatchObject({ status: 503, title: "Busy" });
  });
});
