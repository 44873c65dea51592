"""From text to a trained SAE, straight from the model through saelab's ring buffer, with a timeline; then peers on the same stream.

    python tests/benchmarks/speed/end_to_end.py TOKENS.npz.xz --model MODEL --out end_to_end.json --page docs/benchmarks/PAGE.md

`TOKENS` is what `tests/benchmarks/quality/text.py` writes; where it has fewer rows than are asked for, it is read several times. Ours runs
as a user's would: `Trainer.fit` with folder, log and checkpoints. A peer gets the same batches, centred and scaled, for some seconds of its
own loop, and what it would take for all of them is extrapolated. The file is written anew after each of them.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import peers
import torch
from measure import described
from timeline import Timeline, shares
from torch import Tensor
from workload import Finished, Shape

from saelab.activations.base import Chunk
from saelab.activations.buffer import BufferConfig, RingBuffer
from saelab.activations.prefetch import passing
from saelab.activations.stream import SubjectStore
from saelab.analyses import checkup
from saelab.corpus import Corpus, DocumentInfo
from saelab.dictionary import DICTIONARIES, Losses, Trainable
from saelab.feeds import provenance_of
from saelab.lab import load_subject
from saelab.policy import TokenPolicy
from saelab.subject import Subject, SubjectConfig
from saelab.training import TrainConfig, Trainer
from saelab.values import from_dict

sys.path += [str(Path(__file__).parents[1] / "quality"), str(Path(__file__).parents[1])]
from machine import machine
from rows import Text

PARTS, WARMUP, FEWEST = 10, 5, 5
"""Stretches that the timeline is told in; steps of a peer that are not timed, and that are timed at least."""
HELD_OUT_ROWS, HELD_OUT_WINDOWS = 2**18, 256
"""What the dictionary is judged on: sixteen times what training looks at now and then."""


def corpus_of(text: Text, subject: Subject) -> Corpus:
    """The text's windows as a corpus, held out as the text says."""
    first = np.flatnonzero(np.diff(text.document, prepend=-1))
    pieces = [text.tokens[begin : begin + length] for begin, length in zip(text.begin, text.length, strict=True)]
    offsets = np.append(np.cumsum(text.length)[first] - text.length[first], text.length.sum())
    infos = [
        DocumentInfo(key=str(text.document[i]), domain="text", split="explain", held_out=bool(text.held_out[i])) for i in first.tolist()
    ]
    policy = TokenPolicy(
        context=int(text.length.max()), prepend_bos=False, bos_id=subject.bos_id, special_ids=subject.special_ids, skip_first=1
    )
    return Corpus(policy, infos, np.concatenate(pieces).astype(np.int32), offsets)


class WatchedModel:
    """A subject that tells the timeline when it runs; `Captured`."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.name, self.device = subject, subject.name, subject.device
        self.timeline: Timeline | None = None

    def span(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.timeline is None else self.timeline.span(name)

    def activations(self, tokens: Tensor, hooks: Sequence[str], compiled: bool = False) -> dict[str, Tensor]:
        with self.span("model"):
            return self.subject.activations(tokens, hooks, compiled)

    def recorded(self, hooks: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]] | None:
        run = self.subject.recorded(hooks)
        return run and partial(self._run, run)

    def _run(self, run: Callable[[Tensor], dict[str, Tensor]], tokens: Tensor) -> dict[str, Tensor]:
        with self.span("model"):
            return run(tokens)


class WatchedStore(SubjectStore):
    """Tells the timeline when rows are made: the model's forward passes, and what is around them."""

    model: WatchedModel

    def begin(self, seed: int, portion: int) -> Callable[[], Chunk]:
        with passing(self.model.device), self.model.span("rows"):  # on the stream that the work is done on
            return super().begin(seed, portion)


class WatchedTrainer(Trainer):
    """Tells the timeline when it steps, logs and saves."""

    timeline: Timeline

    def step(self, x: Tensor) -> Losses:
        with self.timeline.span("sae"):
            return super().step(x)

    def log(self) -> None:
        with self.timeline.span("i/o"):
            super().log()

    def save(self) -> None:
        with self.timeline.span("i/o"):
            super().save()


def train(store: WatchedStore, config: argparse.Namespace, folder: Path) -> tuple[Trainable, dict[str, Any]]:
    """Trains ours; the dictionary, and where the time went from the first step on."""
    kind = DICTIONARIES[config.architecture]
    assert issubclass(kind, Trainable)
    dictionary = kind.sized(store.d_in, config.d_sae, config.k).to(store.device)
    settings = {"steps": -(-config.tokens // config.batch), "batch_size": config.batch, "precision": config.precision, "evaluate_every": 0}
    settings["sample"] = min(100_000, config.tokens // 10)  # a short try must not end with its sample
    trainer = WatchedTrainer(dictionary, from_dict(TrainConfig, settings), folder)
    trainer.timeline = store.model.timeline = Timeline(store.device)
    began = time.perf_counter()
    trainer.fit(RingBuffer(store, config.rows, config.batch, 0))
    intervals = trainer.timeline.intervals()
    seconds = time.perf_counter() - began
    store.model.timeline = None
    first, last = intervals["sae"][0][0], max(end for spans in intervals.values() for _, end in spans)
    edges = np.linspace(first, last, PARTS + 1).tolist()
    tokens = trainer.tokens
    found = {
        "seconds": seconds,
        "filling_seconds": first,
        "tokens": tokens,
        "tokens_per_second": tokens / (last - first),
        "shares": shares(intervals, first, last),
        "timeline": [shares(intervals, begin, end) for begin, end in pairwise(edges)],
        "last_log": json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["metrics"],
    }
    return dictionary, found


def given(batches: Iterator[Tensor], timeline: Timeline, seconds: float, mean: Tensor, scale: Tensor) -> Iterator[Tensor]:
    """Standardised batches for so long; what happens between two of them is the trainer's."""
    began = time.perf_counter()
    for number in count():
        if number >= WARMUP + FEWEST and time.perf_counter() - began > seconds:
            break
        standard = (next(batches) - mean) / scale
        with timeline.span("sae"):
            yield standard
    raise Finished


def train_peer(name: str, store: WatchedStore, config: argparse.Namespace) -> dict[str, Any]:
    """Some steps of a peer on the same stream, and what all of them would take."""
    library, architecture, precision = name.split("-")
    make = {"sae_lens": peers.make_saelens, "dictionary_learning": peers.make_dictionary_learning}[library]
    batches = RingBuffer(store, config.rows, config.batch, 0)(0)
    sample = next(batches)
    mean, scale = sample.mean(0), sample.std()
    made = make(Shape("stream", store.d_in, config.d_sae, config.k, config.batch), (sample - mean) / scale, architecture, precision)
    store.model.timeline = timeline = Timeline(store.device)
    try:
        made.fit(given(batches, timeline, config.peer_seconds, mean, scale))
    except (Finished, RuntimeError) as ended:  # a generator's own end reaches some loops as RuntimeError
        if not isinstance(ended, Finished) and not isinstance(ended.__cause__, Finished):
            raise
    store.model.timeline = None
    intervals = timeline.intervals()
    first, last = intervals["sae"][WARMUP][0], intervals["sae"][-1][1]
    steps = len(intervals["sae"]) - WARMUP
    speed = steps * config.batch / (last - first)
    return {
        "steps": steps,
        "tokens_per_second": speed,
        "shares": shares(intervals, first, last),
        "extrapolated_seconds": config.tokens / speed,
    }


def attempted(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is found, or why nothing is: the rest has been measured by then."""
    try:
        return work()
    except Exception as error:
        return {"error": described(error)}


def page(result: dict[str, Any]) -> str:
    """The result for a person."""
    ours, quality, facts, config = result["saelab"], result["quality"], result["machine"], result["config"]
    passes = ours["tokens"] / result["rows"]
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items())
    what = "{architecture}, {d_sae:,} features, k {k}, batch {batch:,}, {precision}".format(**config)
    lines = ["# From text to a trained SAE", "", f"{facts['date']} · {facts['device']} · {versions}", ""]
    lines += ["```bash", facts["command"], "```", ""]
    lines += [
        f"{what}; {ours['tokens']:,} tokens of `{config['hook']}`, straight from the model through a ring buffer of "
        f"{config['rows']:,} rows, as `saelab train --stream` does, log and checkpoints included. The text gives {result['rows']:,} "
        f"training rows: the model read it {passes:.1f} times, in another order each time.",
        "",
        f"Reading the tokens took {result['read_seconds']:.1f} s, loading the model {result['load_seconds']:.1f} s, filling the buffer and "
        f"setting the weights {ours['filling_seconds']:.1f} s, and training {ours['seconds'] - ours['filling_seconds']:.1f} s.",
        "",
        "| trainer | tokens/s | tokens | hours for all | model | rows | SAE | i/o | waiting |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        _line("saelab", ours, ours["tokens"], config["tokens"]),
        *(_line(name, row, row.get("steps", 0) * config["batch"], config["tokens"]) for name, row in result["peers"].items()),
        "",
        "Shares are of the time from the first step to the last: the device at work on the model, on rows around it (choosing windows,",
        "leaving out what does not count), on the SAE, on log and checkpoints, and on none of them. On a GPU model and SAE work at once,",
        "on streams of their own, so that shares add up to more than 1. Hours for all are extrapolated where fewer tokens were read.",
        "",
        "| tenth of the run | model | rows | SAE | i/o | waiting |",
        "|---|---:|---:|---:|---:|---:|",
        *(f"| {number} | {_shares(part)} |" for number, part in enumerate(ours["timeline"], 1)),
        "",
        f"On held-out documents ({HELD_OUT_ROWS:,} rows at most; losses on {HELD_OUT_WINDOWS} windows): "
        + ", ".join(f"{name} {value if isinstance(value, str) else round(value, 4)}" for name, value in quality.items())
        + ".",
        f"In training, at the end: {ours['last_log']['dead']:.2%} of the features dead.",
    ]
    return "\n".join(lines) + "\n"


def _shares(found: dict[str, float]) -> str:
    return " | ".join(f"{found.get(name, 0.0):.1%}" for name in ("model", "rows", "sae", "i/o", "waiting"))


def _line(name: str, row: dict[str, Any], tokens: int, wanted: int) -> str:
    if "error" in row:
        return f"| {name} | {row['error']} |" + " |" * 7
    speed = row["tokens_per_second"]
    return f"| {name} | {speed:,.0f} | {tokens:,} | {wanted / speed / 3600:.3f} | {_shares(row['shares'])} |"


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="windows of tokens, as tests/benchmarks/quality/text.py writes them")
    parser.add_argument("--model", required=True, help="Hugging Face directory, GGUF file or the name of a bundled model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--architecture", default="batchtopk")
    parser.add_argument("--d-sae", type=int, default=16_384)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=50_000_000, help="activations to train on")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=2**19, help="activations in the buffer")
    parser.add_argument("--batch-tokens", type=int, default=32_768, help="tokens in one forward pass")
    parser.add_argument("--shard-windows", type=int, default=256, help="windows read at a time")
    parser.add_argument("--windows", type=int, help="windows spread over the text; all if not given")
    parser.add_argument("--hook", default="blocks.14.hook_resid_post")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peers", nargs="*", default=["sae_lens-batchtopk-bf16", "dictionary_learning-batchtopk-bf16"])
    parser.add_argument("--peer-seconds", type=float, default=40, help="how long each peer trains")
    return parser.parse_args(argv)


def judged(store: WatchedStore, subject: Subject, corpus: Corpus, dictionary: Trainable) -> dict[str, float]:
    """What an evaluation in training measures, on more of the held-out text."""
    with patch.multiple(checkup, _ROWS=HELD_OUT_ROWS, _WINDOWS=HELD_OUT_WINDOWS, _BATCH_WINDOWS=32):
        return checkup.Checkup(store, subject, corpus)(dictionary)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs it."""
    config = parsed(argv)
    began = time.perf_counter()
    subject = load_subject(SubjectConfig(model=config.model, dtype="bfloat16", device=config.device))
    loaded = time.perf_counter()
    corpus = corpus_of(Text.read(config.text, config.windows), subject)
    command = " ".join(["python tests/benchmarks/speed/end_to_end.py", *(sys.argv[1:] if argv is None else argv)])
    result: dict[str, Any] = {
        "load_seconds": loaded - began,
        "read_seconds": time.perf_counter() - loaded,
        "machine": {**machine(config.device, torch.get_num_threads()), "command": command},
        "config": {key: str(found) if isinstance(found, Path) else found for key, found in vars(config).items()},
        "quality": {},
        "peers": {},
    }
    forward = BufferConfig(rows=config.rows, batch_tokens=config.batch_tokens, shard_windows=config.shard_windows)
    model = WatchedModel(subject)
    store = WatchedStore(model, corpus, forward, [config.hook], device=config.device)
    store.model, result["rows"] = model, store.need_rows(False)
    with tempfile.TemporaryDirectory() as folder:
        dictionary, result["saelab"] = train(store, config, Path(folder))
    write(result, config)
    dictionary.provenance = provenance_of(subject.name, store, config.hook)
    result["quality"] = attempted(lambda: judged(store, subject, corpus, dictionary))
    write(result, config)
    for name in config.peers:
        result["peers"][name] = attempted(lambda name=name: train_peer(name, store, config))
        write(result, config)
    print(page(result))


def write(result: dict[str, Any], config: argparse.Namespace) -> None:
    """The files, as far as the run has come."""
    config.out.write_text(json.dumps(result, indent=1))
    if config.page:
        config.page.write_text(page(result))


if __name__ == "__main__":
    main()
