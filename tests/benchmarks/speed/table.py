"""A Markdown page of what a benchmark measured: `python table.py RESULTS.jsonl [MORE.jsonl ...]`.

Writes `docs/benchmarks/<theme>_<hardware>_<date>.md`, or the file after `--page`. Of `run.py` (theme `speed`) it makes a table a shape, in
which later results replace earlier ones of the same trainer; of the others, whose first line names their theme, one table. Lines that are
no JSON are left out: what a program prints beside its results.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[3] / "docs" / "benchmarks"
PEERS = ("sae_lens", "dictionary_learning", "sparsify")
COUNTERPARTS = {"abstopk": "topk", "matryoshka": "batchtopk"}
"""Architectures that no peer was measured with are held against those that they extend."""
SIZES = {"toy": "d 32, 256 features, k 8", "S1": "d 576, 9,216 features, k 32", "S2": "d 768, 24,576 features, k 32"}
SIZES |= {"S3": "d 2,304, 65,536 features, k 64", "S4": "d 4,096, 131,072 features, k 64"}
HOW = """\
Tokens a second by the median step, from one request for a batch to the next in each library's own loop ({warmup} steps before, {steps}
timed, fewer where they take over {seconds:g} s; mean, minimum and maximum beside it). Eight batches of synthetic rows in turn, on the
device: a mean, a low-rank part, 24 of 16,384 Zipf-distributed directions a row, noise. No feature dies in so few steps, so terms that
revive features cost only their checks. JumpReLU starts with thresholds at which the first batch has k active features a row, for every
library.

- `saelab-*`: the whole trainer (`Trainer.step` with input scale, unit-norm decoder, clipping, dead counting, schedules, sums of the
  log, and a line of it every 20th step). `fp32`: all in float32. `bf16`: products in bfloat16, weights and moments in float32.
- `sae_lens-*`: sae-lens, `SAETrainer.fit`; `bf16` with `autocast=True`, `fp32` as it comes. `dictionary_learning-*`:
  dictionary-learning, `update` as `trainSAE` calls it, with `autocast_dtype` of that name; float32 is its default. `sparsify-*`:
  eai-sparsify, `Trainer.fit` with a stand-in model; signum is its default, `adam` is torch's. None is patched; what they import but do
  not use here is replaced by stand-ins (`tests/benchmarks/stubs.py`), logging services are off.
- `plain-*`: what a user would write in plain PyTorch (dense decoder, fused Adam, nothing else), eager in two precisions and `compile`d
  in bfloat16. `openai_like-*`: the step of Gao et al. 2024 written by us from the paper (gathering decoder and sparse weight gradients
  in PyTorch, error over variance, unit-norm decoder, fused Adam, no AuxK). It is not OpenAI's code, and lacks their Triton kernels.

Ratios: to the fastest published trainer ({peers}) and to the fastest other code (plain, openai_like) of the same architecture; AbsTopK
is held against TopK, Matryoshka against BatchTopK. Memory: PyTorch's peak on a GPU, the batches included; the whole process on a CPU.
L0: of the encoder after the last step."""


IDENTITY = ("what", "who", "latents", "processes", "error", "timeline")
"""Facts of a row that its name tells, or that are shown elsewhere."""
SHARED = """Times are those that the work had of the CPU, not the wall's: other work ran beside it. One thread; a second makes steps
shorter, though not by half."""


def read(files: Sequence[Path]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The last opening, with the commands of all, and the results. All must come from the same kind of device."""
    told = (line for file in files for line in file.read_text().splitlines())
    lines: list[dict[str, Any]] = [json.loads(line) for line in told if line.startswith("{")]
    openings = [line for line in lines if "machine" in line]
    names = {line["machine"]["device"] for line in openings}
    if len(names) != 1:
        raise SystemExit(f"The results come from {len(names)} kinds of device ({', '.join(sorted(names))}); give those of one.")
    commands = list(dict.fromkeys(line["machine"]["command"] for line in openings))
    return {**openings[-1], "commands": commands}, [line for line in lines if "machine" not in line]


def _best(rows: dict[str, dict[str, Any]], libraries: Sequence[str], architecture: str) -> float | None:
    wanted = COUNTERPARTS.get(architecture, architecture)
    parts = {name: name.split("-") for name in rows}
    fitting = [
        rows[name]["tokens_per_second"] for name in rows if parts[name][0] in libraries and parts[name][1] == wanted and "ms" in rows[name]
    ]
    return max(fitting, default=None)


def _ratio(speed: float, best: float | None) -> str:
    return "" if best is None else f"{speed / best:.2f}"


def section(shape: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    """The table of one shape, the fastest first; what failed comes last, with its reason."""
    name, _, mode = shape.partition(":")
    base, _, batch = name.partition("@")
    title = f"{SIZES[base]}, batch {int(batch or (256 if base == 'toy' else 4096)):,}"
    lines = [f"## {base}: {title}{', encoding only' if mode else ''}", ""]
    lines += ["| trainer | tokens/s | to peers | to other code | ms | mean | min to max | GiB | L0 |", "|---|" + "---:|" * 8]
    done = [row for row in rows.values() if "ms" in row]
    for row in sorted(done, key=lambda row: row["ms"]):
        library, architecture, _ = row["trainer"].split("-")
        speed = row["tokens_per_second"]
        ratios = [_ratio(speed, _best(rows, group, architecture)) for group in (PEERS, ("plain", "openai_like"))]
        mark = "**" if library == "saelab" else ""
        times = f"{row['ms']:.2f} | {row['ms_mean']:.2f} | {row['ms_min']:.2f} to {row['ms_max']:.2f}"
        lines.append(
            f"| {mark}{row['trainer']}{mark} | {speed:,.0f} | {' | '.join(ratios)} | {times} | {row['peak_gib']:.2f} | {row['l0']:.1f} |"
        )
    failed = [row for row in rows.values() if "ms" not in row]
    if failed:
        lines += ["", "Not measured:", "", *(f"- {row['trainer']}: {row['error']}" for row in failed)]
    return [*lines, ""]


def head(title: str, opening: dict[str, Any]) -> list[str]:
    """What every page begins with: title, date, machine, versions, commands."""
    machine = opening["machine"]
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
    return [f"# {title}", "", f"{machine['date']} · {machine['device']} · {versions}", "", "```bash", *opening["commands"], "```", ""]


def page(opening: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The whole page of the training step."""
    machine, results = opening["machine"], dict[str, dict[str, dict[str, Any]]]()
    for row in rows:
        results.setdefault(row["shape"], {})[row["trainer"]] = row
    lines = head("Speed of the training step beside other libraries", opening)
    if machine["cpu_time"]:
        lines += [SHARED, ""]
    facts = {key: machine[key] for key in ("warmup", "steps", "seconds")}
    lines += [HOW.format(**facts, peers=", ".join(PEERS)), ""]
    for shape in results:
        lines += section(shape, results[shape])
    return "\n".join(lines).rstrip() + "\n"


def listed(opening: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The whole page of any other theme: a line a measurement, what failed, and timelines."""
    lines = [*head(opening["title"], opening), opening["how"], "", "| what | a second | |", "|---|---:|---|"]
    for row in rows:
        if "error" not in row:
            rates = {name: rate for name, rate in row.items() if name.endswith("_per_second")}
            more = {name: fact for name, fact in row.items() if name not in rates and name not in IDENTITY and fact is not None}
            lines.append(
                f"| {row['what']} | {', '.join(map(_rate, rates, rates.values()))} | {', '.join(map(_fact, more, more.values()))} |"
            )
    failed = [row for row in rows if "error" in row]
    if failed:
        lines += ["", "Failed:", "", *(f"- {row['what']}: `{_last(row['error'])}`" for row in failed)]
    for row in rows:
        for stream, shares in row.get("timeline", {}).items():
            lines += ["", f"{row['what']}: share of each twentieth of the time in which stream {stream} worked:", ""]
            lines += [" ".join(f"{share:.2f}" for share in shares)]
    return "\n".join(lines) + "\n"


def _rate(name: str, rate: float) -> str:
    what = name.removesuffix("_per_second").replace("_", " ")
    return f"{rate / 1e6:,.0f} MB" if what == "bytes" else f"{rate:,.0f} {what}" if rate >= 100 else f"{rate:.3g} {what}"


def _fact(name: str, fact: object) -> str:
    shown = f"{fact:,.3f}".rstrip("0").rstrip(".") if isinstance(fact, float) else f"{fact:,}" if type(fact) is int else str(fact)
    return f"{name.replace('_', ' ')} {shown}"


def _last(error: str | list[str]) -> str:
    return (error if isinstance(error, list) else error.strip().splitlines())[-1]


def hardware(device: str) -> str:
    """A device's name as part of a file's name: `cpu`, `h100`."""
    known = re.search(r"\b([ahbl]\d{2,3}s?|rtx \w+|mi\d+\w*)\b", device.lower())
    return known.group(1).replace(" ", "") if known else "gpu"


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args(argv)
    opening, rows = read(arguments.results)
    machine = opening["machine"]
    kind = "cpu" if machine["kind"] == "cpu" else hardware(machine["device"])
    file = arguments.page or DOCS / f"{opening.get('theme', 'speed')}_{kind}_{machine['date']}.md"
    file.write_text(listed(opening, rows) if "theme" in opening else page(opening, rows))
    print(file)


if __name__ == "__main__":
    main()
