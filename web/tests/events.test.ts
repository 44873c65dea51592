import { describe, expect, test } from "vitest";
import { EventReader } from "../src/api/events";

const STREAM = ': ping\r\n\r\nevent: token\r\ndata: {"token": " a: b"}\r\n\r\nevent: completion\ndata: one\ndata: two\n\ndata: bare\n\n';
const EVENTS = [
  { name: "token", data: '{"token": " a: b"}' },
  { name: "completion", data: "one\ntwo" },
  { name: "message", data: "bare" },
];

describe("an event stream", () => {
  test("is read whole", () => expect(new EventReader().read(STREAM)).toEqual(EVENTS));

  test.each([1, 2, 3, 7, 20])("is read in pieces of %i characters", (size) => {
    const reader = new EventReader();
    const pieces = STREAM.match(new RegExp(`[^]{1,${size}}`, "g")) ?? [];
    expect(pieces.flatMap((piece) => reader.read(piece))).toEqual(EVENTS);
  });

  test("gives no event that is not finished", () => expect(new EventReader().read("event: token\ndata: x\n")).toEqual([]));
});
