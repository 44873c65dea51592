// Fails the build where the shell, all that the first paint loads, weighs more than its budget. Plotly is loaded later and does not count.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const BUDGET = 60_000;
const folder = join(import.meta.dirname, "../server/saelab_server/web");
const page = readFileSync(join(folder, "index.html"), "utf8");
const files = [...page.matchAll(/(?:src|href)="\/([^"]+\.(?:js|css))"/g)].map((match) => match[1]);
const weight = ["index.html", ...files].reduce((sum, file) => sum + gzipSync(readFileSync(join(folder, file))).length, 0);

if (files.length < 2) throw new Error(`index.html names ${files.length} scripts and styles; expected at least one of each.`);
if (weight > BUDGET) throw new Error(`The shell weighs ${weight} bytes gzipped; at most ${BUDGET} are allowed.`);
console.info(`shell: ${(weight / 1000).toFixed(1)} kB gzipped of ${BUDGET / 1000} kB (${files.join(", ")})`);
