/** The manual's chapter on evaluation, `docs/evaluation.md`, read for what it says of each analysis. */

export interface Chapter {
  /** What its numbers do not tell; empty where the chapter's table alone says so. */
  caveat: string;
  /** Rows of its table of numbers, heads first; empty where it has none. */
  table: string[][];
}

/** The manual's chapters by the analysis that their heading names: `## \`core\`: what is kept`. */
export function readManual(text: string): Map<string, Chapter> {
  const chapters = text.split(/^## /m).slice(1);
  const named = chapters.map((chapter) => [/^`(\w+)`/.exec(chapter)?.[1], chapter] as const);
  return new Map(named.flatMap(([name, chapter]) => (name ? [[name, readChapter(chapter)] as const] : [])));
}

function readChapter(chapter: string): Chapter {
  const paragraphs = chapter.split(/\n\s*\n/).map((paragraph) => paragraph.replaceAll(/\s*\n\s*/g, " ").trim());
  const caveat = paragraphs.find((paragraph) => paragraph.includes("Does not tell: "))?.split("Does not tell: ")[1] ?? "";
  const lines = chapter.split("\n").filter((line) => line.startsWith("|") && !/^\|[-| ]+\|$/.test(line));
  return { caveat: capitalised(caveat), table: lines.map(cells) };
}

const cells = (line: string) =>
  line
    .slice(1, -1)
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));

const capitalised = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);
