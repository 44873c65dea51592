"""A Markdown page of what `run.py` measured: `python table.py RESULTS.jsonl [MORE.jsonl ...]`.

Writes `docs/benchmarks/speed_<hardware>_<date>.md`, or the file after `--page`. Later results replace earlier ones of the same trainer and
shape.
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


SHARED = """Times are those that the work had of the CPU, not the wall's: other work ran beside it. One thread; a second makes steps
shorter, though not by half."""


def read(files: Sequence[Path]) -> tuple[dict[str, Any], dict[str, dict[str, dict[str, Any]]]]:
    """The first machine's facts, and results by shape and trainer. All must come from the same kind of device."""
    machines: list[dict[str, Any]] = []
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for file in files:
        for line in map(json.loads, file.read_text().splitlines()):
            if "machine" in line:
                machines.append(line["machine"])
            else:
                results.setdefault(line["shape"], {})[line["trainer"]] = line
    names = {machine["device"] for machine in machines}
    if len(names) != 1:
        raise SystemExit(f"The results come from {len(names)} kinds of device ({', '.join(sorted(names))}); give those of one.")
    return {**machines[-1], "commands": list(dict.fromkeys(machine["command"] for machine in machines))}, results


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


def page(machine: dict[str, Any], results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The whole page."""
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
    facts = {key: machine[key] for key in ("warmup", "steps", "seconds")}
    lines = ["# Speed of the training step beside other libraries", "", f"{machine['date']} · {machine['device']} · {versions}", ""]
    if machine["cpu_time"]:
        lines += [SHARED, ""]
    lines += ["```bash", *machine["commands"], "```", "", HOW.format(**facts, peers=", ".join(PEERS)), ""]
    for shape in results:
        lines += section(shape, results[shape])
    return "\n".join(lines).rstrip() + "\n"


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
    machine, results = read(arguments.results)
    kind = "cpu" if machine["kind"] == "cpu" else hardware(machine["device"])
    file = arguments.page or DOCS / f"speed_{kind}_{machine['date']}.md"
    file.write_text(page(machine, results))
    print(file)


if __name__ == "__main__":
    main()
