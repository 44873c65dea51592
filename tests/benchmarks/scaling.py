"""A training step on many GPUs, on paper: the parts measured on one (docs/scaling.md), and what the modes send.

    python tests/benchmarks/scaling.py

Prints the tables of docs/scaling.md. Times add up: no communication is hidden behind work. Rings: of w ranks each sends (w - 1)/w of what
all hold to gather it, and twice that to sum it; a ring is as slow as its slowest link.
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
GEMM, ADAM, SELECT, SPARSE = 781e12, 2.83e12, 4096 * 131_072 / 0.631e-3, 4096 * 64 * 4096 / 2.16e-3
"""Measured on one H100: encoder FLOP/s inside a step, bytes/s of the optimiser, pre-activations/s of the selection, products/s of all that
gathers rows: decode, gradients of values, segments, and the terms of both weights."""


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
    work = {
        "gemm": 2 * mine * shape.d * held / GEMM,
        "adam": 26 * weights / ADAM,
        "select": mine * held / SELECT,
        # a third of the gathers are the weights' terms: with terms exchanged, those of all rows
        "gathers": codes * shape.d / SPARSE * (2 / 3 + (rows if terms else 1) / 3),
    }
    gathered = 4 * mine * shape.d
    features = send(gathered, shards, across_shards) + 2 * send(gathered, shards, across_shards)  # rows; sum of what is written
    features += send(4 * mine * shape.k, shards, across_shards) + send(mine * shape.k, shards, across_shards)  # candidates and answers
    all_terms = rows * (2 * 2 * mine * shape.d + 12 * codes)  # x and error in bf16; two values and an index
    exchanged = send(all_terms, rows, across_rows) if terms else 2 * send(4 * weights, rows, across_rows)
    communication = {"features": features, "gradients": exchanged}
    memory = weights * (12 + 2 + (0 if terms else 4)) + 2 * mine * held + 4 * 4 * mine * shape.d
    return {name: 1e3 * seconds for name, seconds in {**work, **communication}.items()} | {"gib": memory / 2**30}


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
        f"| {sent / total:.0%} | {speed / 1e6:.2f} M | {times} | {gib:.0f} |"
    )


HEADER = """| shape | GPUs | rows × features | gradients | batch | step, ms | sending | tokens/s | times one GPU | GiB a GPU |
| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"""


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
        "S1": (576, 9216, 32, 0.545),
        "S2": (768, 24_576, 32, 1.011),
        "S3": (2304, 65_536, 64, 5.70),
        "S4": (4096, 131_072, 64, 17.3),
    }
    lines += ["", "| shape | measured, ms | model, ms |", "| --- | ---: | ---: |"]
    for name, (d, features, k, seconds) in measured.items():
        parts = step(Shape(name, d, features, k, 4096), 1, 1, True)
        parts.pop("gib")
        lines.append(f"| {name} | {seconds:.2f} | {sum(parts.values()):.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
