"""A training step on many GPUs, on paper: the parts measured on one (docs/scaling.md), and what the modes send.

    python tests/benchmarks/scaling.py

Prints the tables of docs/scaling.md. Times add up: no communication is hidden behind work, and the host hides behind the device alone.
Rings: of w ranks each sends (w - 1)/w of what all hold to gather it, and twice that to sum it; a ring is as slow as its slowest link.
"""

from dataclasses import dataclass, replace

NVLINK, NETWORK = 350e9, 45e9
"""Bytes a second that a GPU sends: to those of its machine, and over a 400 Gb/s adapter of its own."""
MACHINE = 8
"""GPUs in one."""
ONE_GPU = 80
"""GiB of one."""
LATENCY = 20e-6
"""Seconds of one collective, however small."""
GEMM, STREAM = 788e12, 3.08e12
"""FLOP/s of the encoder's product and bytes/s of what only reads and writes, in the update: measured at S4 on one H100 (docs/speed.md)."""
GATHER, ORDER, SECOND = 4096 * 64 * 4096 / 0.935e-3, 4096 * 64 / 0.2e-3, 4096 * 64 / 0.22e-3
"""Products/s of decoding and of the activations' gradients, entries/s of their order by feature, and candidates/s of the top-k's second
level: the same."""
SORT = 4e9
"""Numbers/s that a GPU sorts within short rows; assumed."""
PASSES, UNFUSED = 11, 8
"""Times that a step goes through the batch's rows in float32: the small kernels at S4; and what divided features add (counted), whose
reconstruction is summed between two kernels that are one elsewhere."""
SMALL, KERNEL = 60, 3.3e-6
"""Small kernels of a step, and seconds of one that has nothing to do: the rest of the small ones at S1 and S2."""
LAUNCH, BY_ROWS, BY_FEATURES, AFTER = 28e-6, 96, 121, 80
"""Seconds in which Python launches an operation (JumpReLU's unrecorded step at S1: 3.44 ms, 121 operations); operations of a step of many
GPUs, which is not recorded, by rows and by features (counted on a CPU); and of the latter those between the choice of codes, for which the
host waits, and the update."""


@dataclass(frozen=True)
class Shape:
    """A dictionary and a batch of all GPUs."""

    name: str
    d: int
    features: int
    k: int
    batch: int


def send(data: float, ranks: int, spread: bool) -> float:
    """Seconds in which a ring passes on what all hold together, once."""
    return 0.0 if ranks == 1 else LATENCY + data * (ranks - 1) / ranks / (NETWORK if spread else NVLINK)


def step(shape: Shape, gpus: int, shards: int, terms: bool) -> dict[str, float]:
    """Milliseconds of the parts of a step, and GiB of a GPU."""
    rows = gpus // shards
    held, mine = shape.features / shards, shape.batch / rows
    codes = mine * shape.k / shards  # entries of a rank
    weights = 2 * shape.d * held
    across_shards, across_rows = shards > MACHINE, gpus > MACHINE
    everyone = rows if terms else 1  # with terms exchanged each adds up those of all rows
    work = {
        "gemm": 2 * mine * shape.d * held / GEMM,
        "adam": (26 * weights + 2 * shape.d * held) / STREAM,  # and the encoder once more, for the gradient of the decoder's bias
        "terms": codes * everyone * (4 * shape.d / STREAM + 1 / ORDER),
        "select": 2 * mine * held / STREAM + mine * shape.k / SECOND,  # k candidates a row, however few features
        "gathers": codes * shape.d / GATHER,
        "rows": (PASSES + (UNFUSED if shards > 1 else 0)) * 4 * mine * shape.d / STREAM + SMALL * KERNEL,
    }
    gathered = 4 * mine * shape.d
    features = send(gathered, shards, across_shards) + 2 * send(gathered, shards, across_shards)  # rows; sum of what is written
    if shards > 1:
        work["select"] += 2 * mine * shape.k / SORT  # its own by feature, and all candidates of its share of the rows
        features += send(4 * mine * shape.k, shards, across_shards) + send(mine * shape.k, shards, across_shards) + 3 * LATENCY
    all_terms = rows * (2 * 2 * mine * shape.d + 12 * codes)  # x and error in bf16; two values and an index
    exchanged = send(all_terms, rows, across_rows) if terms else 2 * send(4 * weights, rows, across_rows)
    communication = {"features": features, "gradients": exchanged}
    known = sum(work.values()) + sum(communication.values())
    waits = max(0.0, AFTER * LAUNCH - work["gathers"] - work["rows"] / 2 - features / 2) if shards > 1 else 0.0
    launched = 0.0 if gpus == 1 else LAUNCH * (BY_FEATURES if shards > 1 else BY_ROWS)
    work["host"] = max(waits, launched - known)
    memory = weights * (12 + 2 + (0 if terms else 4)) + 2 * mine * held + 4 * 4 * mine * shape.d
    return {name: 1e3 * seconds for name, seconds in (work | communication).items()} | {"gib": memory / 2**30}


def described(shape: Shape, gpus: int, shards: int, terms: bool) -> str:
    parts = step(shape, gpus, shards, terms)
    gib = parts.pop("gib")
    total, sent = sum(parts.values()), parts["features"] + parts["gradients"]
    speed = shape.batch / total * 1e3
    alone = step(replace(shape, batch=shape.batch // gpus), 1, 1, True)
    fits = alone.pop("gib") < ONE_GPU
    times = f"{speed * sum(alone.values()) / (shape.batch / gpus) / 1e3:.1f}" if fits else "-"
    kind = "terms" if terms else "dense"
    return (
        f"| {shape.name} | {gpus} | {gpus // shards} × {shards} | {kind if gpus > shards else '-'} | {shape.batch:,} | {total:.2f} "
        f"| {sent / total:.0%} | {parts['host'] / total:.0%} | {speed / 1e6:.2f} M | {times} | {gib:.0f} |"
    )


HEADER = """| shape | GPUs | rows × features | gradients | batch | step, ms | sending | host | tokens/s | times one GPU | GiB a GPU |
| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def tables() -> str:
    """All of them, in Markdown."""

    def s2(gpus: int) -> Shape:
        return Shape("S2", 768, 24_576, 32, 4096 * gpus)

    def s4(gpus: int) -> Shape:
        return Shape("S4", 4096, 131_072, 64, 4096 * gpus)

    def huge(batch: int) -> Shape:
        return Shape("16M", 4096, 2**24, 64, batch)

    lines = [HEADER]
    lines += [described(s2(gpus), gpus, 1, terms) for gpus in (1, 2, 8, 64) for terms in (False, True) if gpus > 1 or terms]
    lines += [described(s4(gpus), gpus, shards, True) for gpus, shards in ((1, 1), (2, 1), (2, 2), (8, 1), (8, 8))]
    lines += [described(s4(64), 64, shards, terms) for shards, terms in ((1, True), (1, False), (8, False), (64, True))]
    lines += [described(Shape("1M", 2304, 2**20, 64, batch), 2, 2, True) for batch in (4096, 8192)]
    lines += [described(huge(batch), 64, shards, False) for shards in (64, 32) for batch in (8192, 65_536)]
    measured = {
        Shape("S1", 576, 9216, 32, 4096): 0.70,
        Shape("S2", 768, 24_576, 32, 4096): 1.20,
        Shape("S2", 768, 24_576, 32, 16_384): 2.79,
        Shape("S3", 2304, 65_536, 64, 4096): 6.39,
        s4(1): 18.76,
        s4(2): 27.39,
    }
    lines += ["", "| shape | batch | measured, ms | model, ms |", "| --- | ---: | ---: | ---: |"]
    for shape, seconds in measured.items():
        parts = step(shape, 1, 1, True)
        parts.pop("gib")
        lines.append(f"| {shape.name} | {shape.batch:,} | {seconds:.2f} | {sum(parts.values()):.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
