"""Training: a trainer for every trainable dictionary, with an exact resume.

`Trainer(dictionary, config, folder).fit(batches)` asks `batches(step)` for an iterator that begins at that step and never asks where the
activations come from. With a folder it leaves the dictionary there (`cfg.json`, `sae_weights.safetensors`) and its log (`log.jsonl`, a
`LogRow` a line). Until it is finished a `checkpoint.safetensors` lies beside them: a run that was killed anywhere goes on from it and
ends, on a CPU, with the same bits as one that was not. A single training is a sweep of one: `saelab.sweep` trains many in one pass.
"""

import time
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.checkpoint import tensors_of
from saelab.dictionary import Dictionary, Losses, Trainable
from saelab.distributed.ranks import ALONE, Ranks
from saelab.errors import Invalid
from saelab.kernels.adam import Adam
from saelab.kernels.streams import aside, rejoin
from saelab.recording import Recording, Told
from saelab.records import LogRow
from saelab.schedules import learning_rate
from saelab.sinks import Sink, SinkName, open_sinks
from saelab.values import to_dict, value

_DEAD_EVERY = 16
"""Steps from one look at which features are dead to the next: the look waits for the device."""
_FEWEST_DEAD = 6
"""Binary logarithm of the fewest dead features that a recorded step is made for."""
_EVALUATIONS = 10
"""Evaluations in a run whose config does not say how often."""

Batches = Callable[[int], Iterator[Float[Tensor, "row width"]]]
"""An iterator over the run's batches, from a given step on: the same batches at every call."""
Evaluation = Callable[[Dictionary], Mapping[str, float]]
"""Measures a dictionary in training: named numbers, logged as `eval/<name>`."""


@value
class TrainConfig:
    """How a dictionary is trained."""

    steps: int = 2000
    """Optimiser steps in all."""
    batch_size: int = 4096
    """Activations in a batch."""
    lr: float | None = None
    """Adam's learning rate; none for the architecture's default at its width."""
    warmup: int | None = None
    """Steps over which the learning rate rises from 0; none for 200, or a tenth of a shorter run."""
    decay: float = 0.2
    """Share of the run, at its end, over which the learning rate falls to 0."""
    clip: float = 1.0
    """Largest norm of the gradient of all weights together."""
    betas: tuple[float, float] | None = None
    """Adam's decay rates; none for the architecture's default."""
    dead_after: int | None = None
    """A feature is dead after so many activations without it; none for 10 million, or a fiftieth of a shorter run."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: large products in bfloat16, weights and sums in float32. Faster on GPUs and on CPUs with AVX512-BF16 or AMX. auto: the number
    format of the run's subject, which was chosen by measurement; float32 for a trainer without a run."""
    sample: int = 100_000
    """Activations from which biases and the scale of the inputs are set before the first step: the first batches that hold them."""
    seed: int = 0
    """Seed of the weights, and of whatever an architecture draws at random."""
    log_every: int = 20
    """Steps from one line of the log to the next."""
    checkpoint_every: float = 60.0
    """Seconds from one checkpoint to the next."""
    evaluate_every: int | None = None
    """Steps from one evaluation on held-out documents to the next; none for ten times a run, where there are any, and 0 for never."""
    sinks: tuple[SinkName, ...] = ()
    """Where the log goes beside `log.jsonl`; each needs its package."""


class Trainer:
    """Trains a dictionary.

    Arguments:
    - `dictionary`: any trainable one, on the device where it is to be trained.
    - `config`: how.
    - `folder`: where dictionary, log and checkpoint are written; none to write nothing.
    - `evaluation`: what `config.evaluate_every` is about; none for no evaluation.
    - `ranks`: the processes that train it together, which hold the dictionary.
    """

    def __init__(
        self,
        dictionary: Trainable,
        config: TrainConfig,
        folder: Path | None = None,
        evaluation: Evaluation | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        _check(config, folder, evaluation)
        self.dictionary, self.config, self.folder, self.evaluation, self.ranks = dictionary, config, folder, evaluation, ranks
        self.device = next(dictionary.parameters()).device
        self.lr = dictionary.default_lr() if config.lr is None else config.lr
        self.warmup = min(200, config.steps // 10) if config.warmup is None else config.warmup
        tokens = config.steps * config.batch_size
        self.dead_after = min(10_000_000, tokens // 50) if config.dead_after is None else config.dead_after
        betas = config.betas or dictionary.betas
        self.optimiser = Adam(
            dictionary.parameters(),
            lr=self.lr,
            betas=betas,
            clip=config.clip,
            unit=dictionary.unit_rows(),
            peers=ranks,
            elsewhere=ranks.elsewhere(dictionary),
        )
        self.steps_done, self.tokens = 0, 0
        self.seconds, self._began = 0.0, time.monotonic()
        self.idle = torch.zeros(dictionary.d_sae // ranks.shards, dtype=torch.int64, device=self.device)
        self.dead: Int[Tensor, " dead"] = self.idle.new_zeros(0)
        self._dead: dict[int, Tensor] = {}
        self._any_dead: Told | None = None
        self._kind: Hashable = None
        self._progress = torch.zeros((), dtype=torch.float64, device=self.device)
        records = ranks.recordable(dictionary) and self.device.type == "cuda" and config.precision == "bf16"
        self._recording = Recording(self._advance) if records else None
        self.sums: dict[str, Tensor] = {}
        self._noise = torch.Generator().manual_seed(config.seed).get_state()
        self.last_row: tuple[int, int, float] = (0, 0, 0.0)
        """Steps, tokens and seconds at the last line of the log."""
        self._sinks, self._reads = list[Sink](), dict[str, Any]()

    def fit(self, batches: Batches) -> None:
        """Trains to the end, from the checkpoint if there is one. Raises what `saelab.sweep.fit` raises."""
        from saelab.sweep import Member, fit  # which knows trainers

        fit([Member(self, batches)])

    def initialise(self, sample: Float[Tensor, "row width"]) -> None:
        """Sets the weights from the seed and a sample of training rows; `fit` does it with the first batches."""
        self.need_rows(sample)
        with self._own_noise():
            self.dictionary.initialise(sample.to(self.device), torch.Generator().manual_seed(self.config.seed))
        self._began = time.monotonic()

    def need_rows(self, rows: Tensor) -> None:
        """Raises `Invalid` for what are not training rows of this dictionary."""
        if rows.ndim != 2 or rows.shape[1] != self.dictionary.width or not len(rows):
            raise Invalid(f"A batch has shape {list(rows.shape)}; the dictionary reads rows of {self.dictionary.width} values.")

    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.lr * learning_rate(self.steps_done, self.config.steps, self.warmup, self.config.decay)

    def step(self, x: Float[Tensor, "row width"]) -> Losses:
        """One optimiser step on training rows. Every 16th looks which features are dead, and may wait for the device then.

        On a GPU the step is recorded where the architecture allows it; then the next one overwrites what this one returns.
        """
        x = self.ranks.together(x.to(self.device))
        self.optimiser.set_lr(self.rate())
        if self.steps_done % _DEAD_EVERY == 0:
            self._look_for_dead()
            self._kind = self.dictionary.plan()
        self._progress.fill_(self.steps_done / self.config.steps)
        losses = self._advance(x) if self._recording is None else self._recording(x, (len(self.dead), self._kind))
        self.steps_done += 1
        self.tokens += len(x) * self.ranks.rows
        self.seconds = time.monotonic() - self._began
        return losses

    def _look_for_dead(self) -> None:
        """Which features have not been active for long, on any rank.

        Where steps are recorded, whether there are any is asked one look ahead, so that the device is waited for only if there are.
        """
        self._agree()
        if self._recording is not None:
            asked, self._any_dead = self._any_dead, Told((self.idle >= self.dead_after).any())
            if asked is None or not asked.read():
                self.dead = self.idle[:0]
                return
        self.dead = self._filled((self.idle >= self.dead_after).nonzero()[:, 0])

    def _filled(self, dead: Int[Tensor, " dead"]) -> Int[Tensor, " filled"]:
        """Dead features as a step is given them. A recorded one gets a few numbers of them, filled up."""
        if self._recording is None or not len(dead):
            return dead
        size = 2 ** max(_FEWEST_DEAD, (len(dead) - 1).bit_length())
        room = self._dead.setdefault(size, dead.new_empty(size)).fill_(-1)
        room[: len(dead)] = dead
        return room

    def _advance(self, x: Float[Tensor, "row width"]) -> Losses:
        """What the device does in a step."""
        with self._own_noise(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            losses = self.dictionary.losses(x, self.dead, self._progress)
        loss = reduce(add, losses.terms.values())
        loss.backward()
        losses = replace(losses, terms={name: term.detach() for name, term in losses.terms.items()})  # its graph is not needed any more
        with aside(self.device, "counts"):
            self._count(losses, loss)
        self.ranks.reduce(self.dictionary)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with aside(self.device, "counts"):
            self.dictionary.after_step()
        rejoin(self.device, "counts")
        return losses

    @contextmanager
    def _own_noise(self) -> Generator[None]:
        """PyTorch's random numbers are the trainer's own inside: neither the caller nor another member of a sweep draws from them."""
        outside = torch.get_rng_state()
        torch.set_rng_state(self._noise)
        try:
            yield
        finally:
            self._noise = torch.get_rng_state()
            torch.set_rng_state(outside)

    @torch.no_grad()
    def _count(self, losses: Losses, loss: Tensor) -> None:
        """Adds the step to the sums of the log, on the device."""
        self.idle.add_(len(losses.target) * self.ranks.rows).masked_fill_(losses.active > 0, 0)
        active = losses.active.sum() * self.ranks.size  # a sum over ranks; of the others the mean is asked for
        now = {"loss": loss, **losses.terms, "error": losses.error, "variance": losses.variance, "active": active, **losses.counts}
        for name in now.keys() - self.sums.keys():
            self.sums[name] = torch.zeros((), device=self.device)
        sums, terms = [self.sums[name] for name in now], [term.float() for term in now.values()]
        torch._foreach_add_(sums, terms)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage] - one launch for all

    def _agree(self) -> None:
        """Makes what is counted on each rank's rows and features the same for all rows."""
        self.ranks.agree(self.idle, self.sums)

    def row(self) -> LogRow:
        """The log line of the steps since the last one. Raises `Invalid` if training has diverged."""
        if not self.finite():
            raise self.diverged()
        self._agree()
        (steps, tokens, seconds), self.last_row = self.last_row, (self.steps_done, self.tokens, self.seconds)
        totals = torch.stack(list(self.sums.values())).tolist() if self.sums else []
        sums = dict(zip(self.sums, totals, strict=True))
        for total in self.sums.values():
            total.zero_()
        error, variance, active = sums.pop("error"), sums.pop("variance"), sums.pop("active")
        metrics = {name: total / (self.steps_done - steps) for name, total in sums.items()} | {
            "fvu": error / variance if variance else 0.0,
            "l0": active / (self.tokens - tokens),
            "dead": float(self.ranks.total((self.idle >= self.dead_after).float().mean()) / self.ranks.shards),
            "lr": float(self.optimiser.param_groups[0]["lr"]),
            "tokens_per_second": (self.tokens - tokens) / max(self.seconds - seconds, 1e-9),
        }
        return LogRow(step=self.steps_done, tokens=self.tokens, seconds=round(self.seconds, 3), metrics=metrics)

    def finite(self) -> bool:
        """Whether every step since the last log line had a finite loss on finite rows. Waits for the device."""
        return not self.sums or bool(torch.stack(list(self.sums.values())).isfinite().all())

    def diverged(self) -> Invalid:
        """What to raise where a loss was not finite."""
        return Invalid(f"Training diverged before step {self.steps_done}: the loss is not finite. Lower the learning rate ({self.lr:g}).")

    def due(self) -> bool:
        """Whether the log takes a line after this step."""
        return self.steps_done % self.config.log_every == 0 or self.steps_done == self.config.steps or self._evaluates()

    def _evaluates(self) -> bool:
        every = -(-self.config.steps // _EVALUATIONS) if self.config.evaluate_every is None else self.config.evaluate_every
        return self.evaluation is not None and every > 0 and (self.steps_done % every == 0 or self.steps_done == self.config.steps)

    def log(self) -> None:
        """Writes the log line of the steps since the last one, and what the evaluation finds where one is due."""
        row, evaluation = self.row(), self.evaluation
        if evaluation is not None and self._evaluates():
            self.optimiser.whole()
            found = self.ranks.led(lambda: evaluation(self.dictionary)) or {}
            row = replace(row, metrics={**row.metrics, **{f"eval/{name}": number for name, number in found.items()}})
        for sink in self._sinks:
            sink.write(row)

    def begin(self, reads: Mapping[str, Any]) -> None:
        """Takes up the checkpoint, if there is one, and opens the log at its step. `reads` says what the batches are, as JSON."""
        self._reads = dict(reads)
        if self.folder is not None:
            found = self.ranks.load(self.folder, self._described(), self.device)
            if found is not None:
                self._load(*found)
            if self.ranks.leads:
                self._sinks = open_sinks(self.config.sinks, self.folder, self._described(), self.steps_done)

    def close(self) -> None:
        """Closes the log, and forgets recorded steps: processes cannot part from each other while these are there."""
        self._recording = None
        while self._sinks:
            self._sinks.pop().close()

    def save(self) -> None:
        """Writes the checkpoint whole or not at all."""
        if self.folder is not None:
            self._agree()
            self.optimiser.whole()
            facts = {"steps_done": self.steps_done, "tokens": self.tokens, "seconds": self.seconds, "last_row": self.last_row}
            self.ranks.save(self.folder, self._state(), facts, self._described())

    def _described(self) -> dict[str, Any]:
        dictionary = self.dictionary
        return {"train": to_dict(self.config), dictionary.architecture: to_dict(dictionary.config), "d_in": dictionary.d_in, **self._reads}

    def _state(self) -> dict[str, Tensor]:
        """All tensors that a resume needs."""
        state = {f"weights.{name}": tensor for name, tensor in self.dictionary.state_dict().items()}
        for name, parameter in self.dictionary.named_parameters():
            state |= {f"adam.{name}.{part}": tensor for part, tensor in self.optimiser.state[parameter].items()}
        state |= {f"sum.{name}": tensor for name, tensor in self.sums.items()}
        dead = torch.zeros_like(self.idle, dtype=torch.bool).index_fill_(0, self.dead[self.dead >= 0], True)
        return {**state, "idle": self.idle, "dead": dead, "noise": self._noise}

    def _load(self, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        self.dictionary.load_state_dict(tensors_of(state, "weights.", self.dictionary.state_dict()))
        for name, parameter in self.dictionary.named_parameters():
            parts = [key for key in state if key.startswith(f"adam.{name}.")]
            self.optimiser.state[parameter] = {key.rpartition(".")[2]: state[key] for key in parts}
        self.sums = {key.removeprefix("sum."): tensor for key, tensor in state.items() if key.startswith("sum.")}
        self.idle, self.dead, self._noise = state["idle"], self._filled(state["dead"].nonzero()[:, 0]), state["noise"].cpu()
        self.steps_done, self.tokens, self.seconds = facts["steps_done"], facts["tokens"], facts["seconds"]
        self._began = time.monotonic() - self.seconds
        self.last_row = tuple(facts["last_row"])
        self._kind = self.dictionary.plan()


def _check(config: TrainConfig, folder: Path | None, evaluation: Evaluation | None) -> None:
    counts = {"steps": config.steps, "batch_size": config.batch_size, "log_every": config.log_every, "sample": config.sample}
    for name, count in counts.items():
        if count < 1:
            raise Invalid(f"{name} is {count}; it must be at least 1.")
    if config.lr is not None and not config.lr > 0:
        raise Invalid(f"lr is {config.lr}; it must be positive.")
    if config.betas is not None and not all(0 <= beta < 1 for beta in config.betas):
        raise Invalid(f"betas are {config.betas}; both must be from 0 to below 1.")
    if (config.evaluate_every or 0) < 0 or (config.evaluate_every and evaluation is None):
        raise Invalid(f"evaluate_every is {config.evaluate_every}; it is 0 or more, and 0 where there is nothing to evaluate on.")
    if config.sinks and folder is None:
        raise Invalid(f"sinks are {', '.join(config.sinks)}, but the trainer has no folder, so it keeps no log. Give it a folder.")
    if not 0 <= config.decay <= 1:
        raise Invalid(f"decay is {config.decay}; it is a share of the run, between 0 and 1.")
