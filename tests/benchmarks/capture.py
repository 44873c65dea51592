"""Speed of activations: the model's own forward, capture, reading back and training fed by the model, in one run.

    python tests/benchmarks/capture.py --model PATH --tokens TOKENS.npz.xz [--device cuda] [--folder FOLDER] [--seconds 4]

`TOKENS` is what `quality/text.py` writes. Prints a JSON line a measurement, of which `speed/table.py` makes a page. Everything is sized by
`--seconds`, about which each measurement takes; what is written into the folder is deleted at the end.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent / "quality"))
from machine import opening
from rows import Text
from streams import host_profile, timeline

from saelab.activations import forward
from saelab.activations.base import Chunk
from saelab.activations.buffer import BufferConfig, RingBuffer
from saelab.activations.capture import CaptureConfig, capture, capture_in_memory
from saelab.activations.disk import DiskStore, StorePlan, StoreWriter, shard_file
from saelab.activations.shuffle import batches
from saelab.activations.stream import SubjectStore
from saelab.corpus import Corpus, DocumentInfo, TokenPolicy
from saelab.saes.topk import TopK
from saelab.subject import Subject, SubjectConfig
from saelab.training import TrainConfig, Trainer

SHAPES = {"cuda": ((64, 128), (64, 512), (256, 256)), "cpu": ((32, 128), (8, 512))}
"""Windows and tokens in each, of one forward pass."""
BATCH, D_SAE, K = 4096, 9216, 32
PARTS, LAYERS = ("fed", "layers", "capture", "disk"), (2, 6, 10)
"""What is measured beside the forward pass alone, and further layers that are captured with the one asked for."""
HOW = """\
`forward`: the model alone up to the layer, as one would write it, with compiled blocks, and recorded. `capture`: from windows of text to
memory or disk, beside the plain forward pass of the same shape. `disk`: files of the store's size, written and flushed, read with the
system's cache empty and full. `shuffled batches`: rows in random order on the device. `training`: S1 (9,216 features, k 32, batch 4,096),
whole trainer; a step alone (`step host ms`: until the host has asked for it), what makes a batch alone, and both together (`over the sum`:
1 where nothing overlaps and nothing waits); `gpu idle` is the share of the time in which the device did nothing, `waiting` that in which a
trainer had no batch."""


def note(what: str, **facts: object) -> None:
    """One measurement."""
    tell({"what": what, **facts})


def tell(line: dict[str, object]) -> None:
    """Prints a line at once, so that a run that is cut short has told what it found."""
    print(json.dumps(line), flush=True)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long a piece of work takes until the device is done with it."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def asked_ms(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Milliseconds that the host takes to ask for a piece of work."""
    seconds(work, device)
    began = time.perf_counter()
    for _ in range(times):
        work()
    return 1e3 * (time.perf_counter() - began) / times


def corpus_of(text: Text, context: int, num_tokens: int) -> Corpus:
    """The text's documents, up to a number of tokens, in windows of another length."""
    last = int(np.searchsorted(np.cumsum(text.length), num_tokens)) + 1
    document = text.document[:last]
    firsts = np.flatnonzero(np.diff(document, prepend=-1))
    offsets = np.append(text.begin[firsts], text.begin[last - 1] + text.length[last - 1])
    infos = [DocumentInfo(key=str(i), domain="text", split="explain", held_out=number % 20 == 0) for number, i in enumerate(firsts)]
    return Corpus(TokenPolicy(context=context), infos, text.tokens[: offsets[-1]].astype(np.int32), offsets.astype(np.int64))


class Stop(Exception):
    """Ends a plain forward pass."""


def plain_forward(subject: Subject, layer: int) -> Callable[[Tensor], None]:
    """The model alone up to the end of a layer, as one would write it."""
    block = subject.model.model.layers[layer]

    def stop(*_: object) -> None:
        raise Stop

    def run(tokens: Tensor) -> None:
        handle = block.register_forward_hook(stop)
        with suppress(Stop), torch.inference_mode():
            subject.model(input_ids=tokens, use_cache=False)
        handle.remove()

    return run


def bench_forward(subject: Subject, layer: int, text: Text, limit: float) -> dict[int, float]:
    """Tokens a second of the model alone at each shape, by context, and of the same passes through compiled blocks and recorded."""
    plain, hook, found = plain_forward(subject, layer), f"blocks.{layer}.hook_resid_post", {}
    ways: dict[str, Callable[[Tensor], object]] = {"plain": plain}
    if subject.device.type == "cuda":
        ways["compiled"] = lambda tokens: subject.activations(tokens, [hook], compiled=True)
        recorded = subject.recorded([hook])
        ways |= {"recorded": recorded} if recorded else {}
    for windows, context in SHAPES[subject.device.type]:
        tokens = torch.from_numpy(text.tokens[: windows * context].astype(np.int64)).view(windows, context).to(subject.device)
        for name, run in ways.items():
            first = seconds(lambda: run(tokens), subject.device)  # noqa: B023 - called at once
            run(tokens)  # where it is recorded, it is by now
            times = max(1, min(50, int(limit / seconds(lambda: run(tokens), subject.device))))  # noqa: B023
            rate = times * tokens.numel() / seconds(lambda: [run(tokens) for _ in range(times)], subject.device)  # noqa: B023
            note(f"forward, {name}, {windows}x{context}", tokens_per_second=rate, first_seconds=first)
            if name == "plain":
                found[context] = rate
    return found


def bench_capture(subject: Subject, hook: str, text: Text, folder: Path, own: dict[int, float], limit: float) -> None:
    """Tokens a second from windows to memory and to disk."""
    for recorded in (False, True) if subject.device.type == "cuda" else (False,):
        with patch.object(forward, "worth_compiling", lambda *_, worth=recorded: worth):
            for windows, context in SHAPES[subject.device.type]:
                corpus = corpus_of(text, context, int(own[context] * limit * (1 + recorded)))
                tokens = int(corpus.window_length.sum())
                config = CaptureConfig(hooks=(hook,), batch_tokens=windows * context)
                capture_in_memory(subject, corpus_of(text, context, windows * context), config)  # warm
                for where in ("memory", "disk"):
                    shutil.rmtree(folder / "store", ignore_errors=True)
                    work = {
                        "memory": lambda: capture_in_memory(subject, corpus, config),  # noqa: B023 - called at once
                        "disk": lambda: capture(subject, corpus, config, lambda name: folder / "store" / name),  # noqa: B023
                    }[where]
                    corpus.window_rows, corpus.sha256  # noqa: B018 - read once for all that is done with a corpus
                    rate = tokens / seconds(work, subject.device)
                    name = f"capture to {where}, {'recorded' if recorded else 'eager'}, {windows}x{context}"
                    note(name, tokens_per_second=rate, of_own_forward=rate / own[context], tokens=tokens)


def bench_layers(subject: Subject, hook: str, text: Text, own: float, limit: float) -> None:
    """Tokens a second of one and of several layers from the same forward pass, into memory."""
    corpus = corpus_of(text, 128, int(own * limit * 2))
    hooks = (*(f"blocks.{layer}.hook_resid_post" for layer in LAYERS), hook)
    for chosen in ((hook,), hooks):
        config = CaptureConfig(hooks=chosen)
        capture_in_memory(subject, corpus_of(text, 128, 2**14), config)  # warm
        rate = int(corpus.window_length.sum()) / seconds(lambda: capture_in_memory(subject, corpus, config), subject.device)  # noqa: B023
        note(f"capture to memory, layers from one pass: {len(chosen)}", tokens_per_second=rate, of_own_forward=rate / own)


def written_store(folder: Path, num_shards: int, d_in: int) -> DiskStore:
    """A store of random rows, written as capture writes it."""
    plan = StorePlan(subject="random", hook="random", dtype="bfloat16", policy=TokenPolicy(), max_norm=None, corpus="", shard_windows=256)
    writer = StoreWriter(folder, plan)
    window = torch.arange(256).repeat_interleave(127)
    chunk = Chunk(x=torch.randn(len(window), d_in).bfloat16(), window=window, position=torch.arange(1, 128).repeat(256))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: writer.write(number, chunk, window < 25), range(num_shards)))
    return writer.finish(num_shards)


def bench_disk(folder: Path, device: torch.device, d_in: int, limit: float) -> None:
    """The disk's own speed, and that of writing a store and of reading it back in random order."""
    num_shards = 64 if device.type == "cuda" else 24
    spent = seconds(lambda: written_store(folder, num_shards, d_in), device)
    files = sorted(folder.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    note("disk: a store written", bytes_per_second=size / spent, rows_per_second=size / spent / d_in / 2)
    content = files[0].read_bytes()

    def write() -> None:
        for number in range(len(files)):
            with (folder / f"raw{number}").open("wb", buffering=0) as raw:
                raw.write(content)
                os.fsync(raw.fileno())

    note("disk: plain write and flush", bytes_per_second=len(files) * len(content) / seconds(write, device))
    for number in range(len(files)):
        (folder / f"raw{number}").unlink()

    def read() -> None:
        held = bytearray(2**22)
        for file in files:
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(held):
                    pass

    forget(files)
    note("disk: plain read, cold", bytes_per_second=size / seconds(read, device))
    note("disk: plain read, cached", bytes_per_second=size / seconds(read, device))
    bench_shuffled(folder, device, limit)


def bench_shuffled(folder: Path, device: torch.device, limit: float) -> None:
    """Rows a second of a store in random order, beside copies of them as they lie."""
    store = DiskStore(folder)
    held = torch.empty(max(store.chunk_rows()), store.d_in, dtype=store.part(0)[0].dtype)
    copied = seconds(lambda: [held[: len(x)].copy_(x) for x in (store.part(i)[0] for i in range(len(store.chunk_rows())))], device)
    note("disk: plain copy of the map, first with checksums", rows_per_second=store.num_rows / copied)
    for name, cold, opened in (
        ("first read, cold", True, DiskStore(folder)),
        ("first read, cached", False, DiskStore(folder)),
        ("later reads", False, store),
    ):
        if cold:
            forget([shard_file(folder, number) for number in range(len(store.chunk_rows()))])
        steps = max(1, store.need_rows(False) // BATCH)
        got = batches(opened, BATCH, 0, steps=steps if "first" in name else None, device=device)
        began, rows = time.perf_counter(), 0
        for x in got:
            rows += len(x)
            if time.perf_counter() - began > limit:
                break
        if device.type == "cuda":
            torch.cuda.synchronize()
        passed = time.perf_counter() - began
        note(f"shuffled batches, {name}", rows_per_second=rows / passed, bytes_per_second=2 * store.d_in * rows / passed)
        got.close()
    bench_read(store, device, limit)


def bench_read(store: DiskStore, device: torch.device, limit: float) -> None:
    """Training fed from disk: what a step takes alone, and with the batches that it waits for."""
    coming = batches(store, BATCH, 0, device=device)
    trainer = Trainer(TopK(store.d_in, TopK.Config(d_sae=D_SAE, k=K)).to(device), training(device, 0))
    x = next(coming)
    trainer.initialise(x)
    for _ in range(3):
        trainer.step(x)
    few = 200 if device.type == "cuda" else 2
    step = seconds(lambda: [trainer.step(x) for _ in range(few)], device) / few
    began, steps = time.perf_counter(), 0

    def fed() -> None:
        nonlocal steps
        while steps < few or time.perf_counter() - began < limit:
            trainer.step(next(coming))
            steps += 1
            if steps % few == 0 and device.type == "cuda":
                torch.cuda.synchronize()  # else the host runs ahead of what it measures

    together = seconds(fed, device) / steps
    coming.close()
    facts = {"step_ms": 1e3 * step, "fed_ms": 1e3 * together, "waiting": max(0.0, 1 - step / together)}
    facts |= {"step_host_ms": asked_ms(lambda: trainer.step(x), few, device)}
    note("training fed from disk", tokens_per_second=BATCH / together, bytes_per_second=2 * store.d_in * BATCH / together, **facts)


def forget(files: list[Path]) -> None:
    """Asks the system to drop files from its cache."""
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bench_fed(subject: Subject, hook: str, text: Text, own: float, limit: float, num_saes: int, profiled: bool) -> None:
    """Training straight from the model: what forward and steps take alone, and together."""
    device = subject.device
    corpus = corpus_of(text, 128, int(max(2**15, min(own * limit * 4, 2**23))))
    config = BufferConfig(rows=2**18 if device.type == "cuda" else 2 * BATCH, shard_windows=256 if device.type == "cuda" else 16)
    store = SubjectStore(subject, corpus, config, (hook,), device=device)
    buffer = RingBuffer(store, config.rows, BATCH, 0)
    trainers = [Trainer(TopK(store.d_in, TopK.Config(d_sae=D_SAE, k=K)).to(device), training(device, i)) for i in range(num_saes)]
    coming = buffer(0)
    x = next(coming)
    for trainer in trainers:
        trainer.initialise(x)

    def train(x: Tensor) -> None:
        for trainer in trainers:
            trainer.step(x)

    train(next(coming))
    few = 40 if device.type == "cuda" else 2
    step = seconds(lambda: [train(x) for _ in range(few)], device) / few
    batch = seconds(lambda: list(islice(coming, few)), device) / few
    steps = max(few, int(limit / (step + batch)))

    def fed() -> None:
        for x in islice(coming, steps):
            train(x)

    facts: dict[str, object] = {"step_ms": 1e3 * step, "forward_ms": 1e3 * batch, "saes": num_saes}
    facts["step_host_ms"] = asked_ms(lambda: train(x), few, device)
    if device.type == "cuda":
        facts |= timeline(lambda: [train(x) for x in islice(coming, 40)])
    together = seconds(fed, device) / steps
    facts |= {"fed_ms": 1e3 * together, "over_the_sum": together / (step + batch), "tokens_per_second": num_saes * BATCH / together}
    note(f"training {num_saes} SAEs fed by the model", **facts)
    if profiled:
        note(f"host, {num_saes} SAEs fed by the model, {steps} steps", profile=host_profile(fed))


def training(device: torch.device, seed: int) -> TrainConfig:
    """The settings of the quality page."""
    return TrainConfig(steps=10**6, precision="bf16" if device.type == "cuda" else "fp32", seed=seed)


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--tokens", required=True, type=Path, help="the windows of quality/text.py")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--dtype", default="bfloat16", help="number format of the model")
    parser.add_argument("--layer", type=int, default=14, help="the layer whose output is captured")
    parser.add_argument("--folder", type=Path, help="where the store is written; the system's folder for temporary files without it")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds that one measurement takes, roughly")
    parser.add_argument("--saes", type=int, nargs="*", default=[1, 8], help="how many SAEs are trained from one pass")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured beside the forward pass alone")
    parser.add_argument("--host-profile", action="store_true", help="tell where the host spends the time of training fed by the model")
    given = parser.parse_args()
    subject = Subject.load(SubjectConfig(model=given.model, dtype=given.dtype, device=given.device))
    text, hook = Text.read(given.tokens), f"blocks.{given.layer}.hook_resid_post"
    tell(opening("capture", "Speed of activations", HOW, subject.device.type))
    own = bench_forward(subject, given.layer, text, given.seconds)
    if given.folder:
        given.folder.mkdir(parents=True, exist_ok=True)
    for num_saes in given.saes if "fed" in given.parts else ():
        bench_fed(subject, hook, text, own[128], given.seconds, num_saes, given.host_profile)
    if "layers" in given.parts:
        bench_layers(subject, hook, text, own[128], given.seconds)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if "capture" in given.parts:
            bench_capture(subject, hook, text, Path(folder), own, given.seconds)
        if "disk" in given.parts:
            bench_disk(Path(folder) / "random", subject.device, subject.d_model, given.seconds)


if __name__ == "__main__":
    main()
