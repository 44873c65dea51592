"""A training step on many GPUs, on paper: the parts measured on one (docs/scaling.md), and what the modes send.

    python tests/benchmarks/scaling.py

Prints the tables of docs/scaling.md. Times add up but for three things: the host hides behind the device; what ranks with other rows tell
each other of rows and entries, beside the forward pass; and the copies of encoder rows, beside the step of the decoder. Rings: of w ranks
each sends (w - 1)/w of what all hold to gather it, and twice that to sum it; a ring is as slow as its slowest link.
"""

from dataclasses import dataclass, replace

NVLINK, NETWORK = 329e9, 45e9
"""Bytes a second that a GPU sends: to those of its machine, as measured for a sum of 1 GiB on two H100 (less is slower, by how much is not
known); and over a 400 Gb/s adapter of its own, which is assumed."""
MACHINE = 8
"""GPUs in one."""
ONE_GPU = 80
"""GiB of one."""
LATENCY = 20e-6
"""Seconds of one collective, however small."""
GEMM, STREAM = 788e12, 3.08e12
"""FLOP/s of the encoder's product and bytes/s of what only reads and writes, in the update: measured at S4 on one H100 (docs/speed.md)."""
GATHER, ORDER = 4096 * 64 * 4096 / 0.935e-3, 4096 * 64 / 0.2e-3
"""Products/s of decoding and of the activations' gradients, and entries/s of their order by feature: the same."""
GROUP, RANKED = 32, 4096 * (131_072 / 32 + 32 * 64) / 0.22e-3
"""Features of a group of the top-k, and keys/s that its second level ranks: all groups of a row, and all features of the k best."""
SORT = 4e9
"""Numbers/s that a GPU sorts within short rows; assumed."""
PASSES, UNFUSED = 11, 8
"""Times that a step goes through the batch's rows in float32: the small kernels at S4; and what divided features add (counted), whose
reconstruction is summed between two kernels that are one elsewhere."""
SMALL, EXCHANGE, KERNEL = 45, 12, 3.3e-6
"""Small kernels of a step one after another, and those of an exchange of terms; and seconds of one that has nothing to do."""
MERGE = 25, 150
"""Kernels that put the entries of all rows in order, and bytes that they read and write an entry."""
LAUNCH, BY_ROWS, BY_FEATURES, FIRST, AFTER = 50e-6, 147, 140, 33, 98
"""Seconds in which Python launches an operation (S2 by rows on two GPUs, not recorded: 7.36 ms, 147 operations); operations, kernels and
collectives of a step by rows and by features (counted on a CPU, the kernels by Triton's interpreter); and of the latter those between the
choice of codes, for which the host waits, and the first long kernel, and the update."""


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


def step(shape: Shape, gpus: int, shards: int, terms: bool, recorded: bool = False) -> dict[str, float]:
    """Milliseconds of the parts of a step, and GiB of a GPU."""
    rows = gpus // shards
    held, mine = shape.features / shards, shape.batch / rows
    codes = mine * shape.k / shards  # entries of a rank; with terms exchanged as many of all rows are of its own features
    weights = 2 * shape.d * held
    stepped = weights / rows if terms else weights
    across_shards, across_rows = shards > MACHINE, gpus > MACHINE
    work = {
        "gemm": 2 * mine * shape.d * held / GEMM,
        "adam": (26 * stepped + 2 * shape.d * held) / STREAM,  # and the encoder once more, for the gradient of the decoder's bias
        "terms": codes * (4 * shape.d / STREAM + 1 / ORDER),
        "select": 2 * mine * held / STREAM + mine * (held / GROUP + GROUP * shape.k) / RANKED,
        "gathers": codes * shape.d / GATHER,
        "rows": (PASSES + (UNFUSED if shards > 1 else 0)) * 4 * mine * shape.d / STREAM + SMALL * KERNEL,
    }
    communication = {"features": 0.0, "gradients": 0.0}
    if shards > 1:
        work["select"] += 2 * mine * shape.k / SORT  # its own by feature, and all candidates of its share of the rows
        gathered = 4 * mine * shape.d
        communication["features"] = 3 * send(gathered, shards, across_shards) + 3 * LATENCY  # rows; sum of what is written; three numbers
        communication["features"] += send(4 * mine * shape.k, shards, across_shards) + send(mine * shape.k, shards, across_shards)
    if rows > 1 and not terms:
        communication["gradients"] = 2 * send(4 * weights, rows, across_rows)
    if rows > 1 and terms:
        kernels, each = MERGE
        early = send(rows * 2 * mine * shape.d, rows, across_rows) + send(rows * (8 * codes + 4 * held), rows, across_rows)
        early += kernels * KERNEL + rows * codes * each / STREAM
        late = send(rows * 2 * mine * shape.d, rows, across_rows) + send(rows * (8 * codes + 20 * held), rows, across_rows)
        copies = send(2 * shape.d * held, rows, across_rows)  # of one weight
        beside = max(0.0, early - work["gathers"] - work["rows"] / 2) + max(0.0, copies - 13 * stepped / STREAM)
        communication["gradients"] = beside + late + LATENCY + copies  # a number for clipping
        work["rows"] += EXCHANGE * KERNEL
    work["host"] = 0.0 if recorded or gpus == 1 else waited(work, communication, shards)
    memory = weights * (12 + 2 + (0 if terms else 4)) + 2 * mine * held + 4 * 4 * mine * shape.d
    return {name: 1e3 * seconds for name, seconds in (work | communication).items()} | {"gib": memory / 2**30}


def waited(work: dict[str, float], communication: dict[str, float], shards: int) -> float:
    """Seconds in which a GPU has nothing to do, since Python has not launched it yet."""
    known = sum(work.values()) + sum(communication.values())
    if shards == 1:
        return max(0.0, LAUNCH * BY_ROWS - known)
    meanwhile = work["gathers"] + 0.75 * work["rows"] + 2 / 3 * communication["features"] + work["adam"] / 27  # what follows the choice
    return max(LAUNCH * FIRST + max(0.0, LAUNCH * (AFTER - FIRST) - meanwhile), LAUNCH * BY_FEATURES - known)


def described(shape: Shape, gpus: int, shards: int, terms: bool, recorded: bool = False) -> str:
    parts = step(shape, gpus, shards, terms, recorded)
    gib = parts.pop("gib")
    total, sent = sum(parts.values()), parts["features"] + parts["gradients"]
    speed = shape.batch / total * 1e3
    alone = step(replace(shape, batch=shape.batch // gpus), 1, 1, True)
    fits = alone.pop("gib") < ONE_GPU
    times = f"{speed * sum(alone.values()) / (shape.batch / gpus) / 1e3:.1f}" if fits else "-"
    kind = ("terms" if terms else "dense") + (", recorded" if recorded else "")
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

    lines = [HEADER, described(s2(1), 1, 1, True)]
    kinds = (False, False), (True, False), (True, True)
    lines += [described(s2(gpus), gpus, 1, *kind) for gpus in (2, 8, 64) for kind in kinds]
    lines += [described(s4(1), 1, 1, True)]
    lines += [described(s4(gpus), gpus, shards, True, shards == 1) for gpus in (2, 8) for shards in (1, gpus)]
    lines += [described(s4(64), 64, 1, False), described(s4(64), 64, 1, True, True)]
    lines += [described(s4(64), 64, shards, terms) for shards, terms in ((8, False), (8, True), (64, True))]
    lines += [described(Shape("1M", 2304, 2**20, 64, batch), 2, 2, True) for batch in (4096, 8192)]
    lines += [described(huge(batch), 64, shards, shards == 32) for shards in (64, 32) for batch in (8192, 65_536)]
    measured = {
        Shape("S1", 576, 9216, 32, 4096): 0.58,
        Shape("S2", 768, 24_576, 32, 4096): 1.07,
        Shape("S2", 768, 24_576, 32, 16_384): 2.69,
        Shape("S3", 2304, 65_536, 64, 4096): 6.32,
        s4(1): 18.85,
        s4(2): 27.96,
    }
    lines += ["", "| shape | batch | measured, ms | model, ms |", "| --- | ---: | ---: | ---: |"]
    for shape, seconds in measured.items():
        parts = step(shape, 1, 1, True)
        parts.pop("gib")
        lines.append(f"| {shape.name} | {shape.batch:,} | {seconds:.2f} | {sum(parts.values()):.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
