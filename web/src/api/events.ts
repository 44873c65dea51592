/** Server-sent events, read from text that arrives in arbitrary pieces. */

export interface ServerEvent {
  name: string;
  data: string;
}

/** Collects pieces of an event stream and gives the events that they complete. */
export class EventReader {
  private rest = "";

  /** The events completed by `piece`. Comments and fields other than `event` and `data` are left out, as the standard says. */
  read(piece: string): ServerEvent[] {
    const text = this.rest + piece;
    const whole = text.endsWith("\r") ? text.slice(0, -1) : text; // a "\n" may follow in the next piece
    const blocks = whole.replaceAll(/\r\n|\r/g, "\n").split("\n\n");
    this.rest = (blocks.pop() ?? "") + (whole === text ? "" : "\r");
    return blocks.map(parseEvent).filter((event) => event !== null);
  }
}

function parseEvent(block: string): ServerEvent | null {
  let name = "message";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
    if (field === "event") name = value ?? "";
    if (field === "data") data.push(value ?? "");
  }
  return data.length > 0 ? { name, data: data.join("\n") } : null;
}
