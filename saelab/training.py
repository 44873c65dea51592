"""Training: one loop for every trainable dictionary, with an exact resume.

`Trainer(dictionary, config, folder).fit(batches)` asks `batches(step)` for an iterator that begins at that step and never asks where the
activations come from. With a folder it leaves the dictionary there (`cfg.json`, `sae_weights.safetensors`) and its log (`log.jsonl`, a
`LogRow` a line). Until it is finished a `checkpoint.safetensors` lies beside them: a run that was killed anywhere goes on from it and
ends, on a CPU, with the same bits as one that was not.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from saelab.activations.base import Resumable
from saelab.describe import read_log
from saelab.dictionary import Losses, Trainable, save_dictionary
from saelab.errors import Conflict, Corrupt, Invalid
from saelab.progress import track
from saelab.records import LogRow
from saelab.run import cannot_write, differences, whole, write_atomically
from saelab.values import to_dict, value

CHECKPOINT_FILE = "checkpoint.safetensors"
"""State of an unfinished training."""
LOG_FILE = "log.jsonl"
"""The training log, a `LogRow` a line."""
_DEAD_EVERY = 16
"""Steps from one look at which features are dead to the next: the look waits for the device."""
_SOURCES = {True: "straight from a subject", False: "on captured activations"}

Batches = Callable[[int], Iterator[Float[Tensor, "row width"]]]
"""An iterator over the run's batches, from a given step on: the same batches at every call. Those that are `Resumable` have their state in
the checkpoint."""


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
    """Steps over which the learning rate rises from 0; none for 1000, or a tenth of a shorter run."""
    decay: float = 0.2
    """Share of the run, at its end, over which the learning rate falls to 0."""
    clip: float = 1.0
    """Largest norm of the gradient of all weights together."""
    betas: tuple[float, float] | None = None
    """Adam's decay rates; none for the architecture's default."""
    dead_after: int | None = None
    """A feature is dead after so many activations without it; none for 10 million, or a twentieth of a shorter run."""
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


class Trainer:
    """Trains a dictionary.

    Arguments:
    - `dictionary`: any trainable one, on the device where it is to be trained.
    - `config`: how.
    - `folder`: where dictionary, log and checkpoint are written; none to write nothing.
    """

    def __init__(self, dictionary: Trainable, config: TrainConfig, folder: Path | None = None) -> None:
        _check(config)
        self.dictionary, self.config, self.folder = dictionary, config, folder
        self.device = next(dictionary.parameters()).device
        self.lr = dictionary.default_lr() if config.lr is None else config.lr
        self.warmup = min(1000, config.steps // 10) if config.warmup is None else config.warmup
        tokens = config.steps * config.batch_size
        self.dead_after = min(10_000_000, tokens // 20) if config.dead_after is None else config.dead_after
        betas = config.betas or dictionary.betas
        self.optimiser = torch.optim.Adam(dictionary.parameters(), lr=self.lr, betas=betas, fused=True)
        self.steps_done = 0
        self.tokens = 0
        self.seconds = 0.0
        self.idle = torch.zeros(dictionary.d_sae, dtype=torch.int64, device=self.device)
        self.dead: Int[Tensor, " dead"] = self.idle.new_zeros(0)
        self.sums: dict[str, Tensor] = {}
        self._window = (0, 0.0)
        self._resumable: Resumable | None = None

    def initialise(self, sample: Float[Tensor, "row width"]) -> None:
        """Sets the weights from the seed and a sample of training rows; `fit` does it with the first batches."""
        _check_batch(sample, self.dictionary.width)
        self.dictionary.initialise(sample.to(self.device), torch.Generator().manual_seed(self.config.seed))

    def rate(self) -> float:
        """The learning rate of the next step."""
        step, last = self.steps_done, self.config.steps
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        fall = min(1.0, (last - step) / max(1.0, self.config.decay * last))
        return self.lr * rise * fall

    def step(self, x: Float[Tensor, "row width"]) -> Losses:
        """One optimiser step on training rows. Waits for the device only every 16th time, to see which features are dead."""
        x = x.to(self.device)
        self.optimiser.param_groups[0]["lr"] = self.rate()
        if self.steps_done % _DEAD_EVERY == 0:
            self.dead = (self.idle >= self.dead_after).nonzero()[:, 0]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            losses = self.dictionary.losses(x, self.dead, self.steps_done / self.config.steps)
        loss = torch.stack(list(losses.terms.values())).sum()
        loss.backward()
        self.dictionary.before_step()
        torch.nn.utils.clip_grad_norm_(self.dictionary.parameters(), self.config.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.dictionary.after_step()
        self.steps_done += 1
        self.tokens += len(x)
        self._count(losses, loss)
        return losses

    @torch.no_grad()
    def _count(self, losses: Losses, loss: Tensor) -> None:
        """Adds the step to the sums of the log, on the device."""
        target = losses.target
        self.idle = torch.where(losses.active > 0, 0, self.idle + len(target))
        now = {
            "loss": loss,
            **losses.terms,
            "error": (target - losses.reconstruction).square().sum(),
            "variance": (target - target.mean(0)).square().sum(),
            "active": losses.active.sum(),
        }
        for name, term in now.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + term.detach().float()

    def row(self) -> LogRow:
        """The log line of the steps since the last one. Raises `Invalid` if training has diverged."""
        (tokens, seconds), self._window = self._window, (self.tokens, self.seconds)
        steps = (self.steps_done - 1) % self.config.log_every + 1
        sums = {name: float(total) for name, total in self.sums.items()}
        self.sums = {}
        if not all(abs(total) < float("inf") for total in sums.values()):
            raise Invalid(
                f"Training diverged before step {self.steps_done}: the loss is not finite. Lower the learning rate ({self.lr:g})."
            )
        error, variance, active = sums.pop("error"), sums.pop("variance"), sums.pop("active")
        metrics = {name: total / steps for name, total in sums.items()} | {
            "fvu": error / variance if variance else 0.0,
            "l0": active / (self.tokens - tokens),
            "dead": float((self.idle >= self.dead_after).float().mean()),
            "lr": self.optimiser.param_groups[0]["lr"],
            "tokens_per_second": (self.tokens - tokens) / max(self.seconds - seconds, 1e-9),
        }
        return LogRow(step=self.steps_done, tokens=self.tokens, seconds=round(self.seconds, 3), metrics=metrics)

    def fit(self, batches: Batches) -> None:
        """Trains to the end, from the checkpoint if there is one.

        Raises `Conflict` if the checkpoint was made with another config, `Corrupt` if it cannot be read, and `Invalid` if the batches end
        early, have another width than the dictionary, or make training diverge.
        """
        config, size = self.config, self.config.batch_size
        self._resumable = batches if isinstance(batches, Resumable) else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            if not self._resume():
                self.initialise(torch.cat([x.float() for x in islice(batches(0), -(-config.sample // size))] or [torch.zeros(0, 0)]))
            began, saved = time.monotonic() - self.seconds, time.monotonic()
            left = islice(batches(self.steps_done), config.steps - self.steps_done)
            for x in track(left, stage="train", total=config.steps * size, unit="tokens", done=self.steps_done * size, size=size):
                _check_batch(x, self.dictionary.width)
                self.step(x)
                self.seconds = time.monotonic() - began
                if self.steps_done % config.log_every == 0 or self.steps_done == config.steps:
                    self._log(self.row())
                if self.folder is not None and time.monotonic() - saved >= config.checkpoint_every and self.steps_done < config.steps:
                    self._save(self.folder / CHECKPOINT_FILE)
                    saved = time.monotonic()
        if self.steps_done < config.steps:
            raise Invalid(f"The batches ended at step {self.steps_done} of {config.steps}. Give more activations, or fewer steps.")
        if self.folder is not None:
            save_dictionary(self.dictionary, self.folder)
            (self.folder / CHECKPOINT_FILE).unlink(missing_ok=True)

    def _log(self, row: LogRow) -> None:
        if self.folder is not None:
            log = self.folder / LOG_FILE
            try:
                log.parent.mkdir(parents=True, exist_ok=True)
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(to_dict(row)) + "\n")
            except OSError as error:
                raise cannot_write(log, error) from None

    def _described(self) -> dict[str, object]:
        dictionary = self.dictionary
        return {"train": to_dict(self.config), dictionary.architecture: to_dict(dictionary.config), "d_in": dictionary.d_in}

    def _state(self) -> dict[str, Tensor]:
        """All tensors that a resume needs; loading writes into the very same ones."""
        state = {f"weights.{name}": tensor for name, tensor in self.dictionary.state_dict().items()}
        for name, parameter in self.dictionary.named_parameters():
            state |= {f"adam.{name}.{part}": tensor for part, tensor in self.optimiser.state[parameter].items()}
        state |= {f"sum.{name}": tensor for name, tensor in self.sums.items()}
        state |= {f"batches.{name}": tensor for name, tensor in (self._resumable.state() if self._resumable else {}).items()}
        return {**state, "idle": self.idle, "dead": self.dead, "rng": torch.get_rng_state()}

    def _save(self, file: Path) -> None:
        """Writes the checkpoint whole or not at all."""
        facts = {
            "steps_done": self.steps_done,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "window": self._window,
            "config": self._described(),
        }
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self._state().items()}
        with whole(file) as half:
            save_file(state, half, {"state": json.dumps(facts)})

    def _resume(self) -> bool:
        """Takes up the checkpoint, if there is one, and cuts the log to its step."""
        if self.folder is None:
            return False
        file = self.folder / CHECKPOINT_FILE
        found = file.is_file()
        if found:
            self._load(file)
        _cut_log(self.folder / LOG_FILE, self.steps_done)
        return found

    def _load(self, file: Path) -> None:
        try:
            with safe_open(file, framework="pt", device=str(self.device)) as opened:
                facts = json.loads(opened.metadata()["state"])
                state: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{file}: not a checkpoint ({error}). Delete it to train from the beginning.") from None
        changed = differences(facts["config"], json.loads(json.dumps(self._described())))
        if changed:
            lines = "\n".join(f"  {line}" for line in changed)
            raise Conflict(f"{file} was made with another config:\n{lines}\nUse another folder, or delete the file to train anew.")
        batches = {key.removeprefix("batches."): tensor for key, tensor in state.items() if key.startswith("batches.")}
        if bool(batches) != bool(self._resumable):
            raise Conflict(f"{file} was made {_SOURCES[bool(batches)]}, not {_SOURCES[not batches]}. Delete it to train anew.")
        if self._resumable:
            self._resumable.load(batches)
        self.dictionary.load_state_dict({name: state[f"weights.{name}"] for name in self.dictionary.state_dict()})
        for name, parameter in self.dictionary.named_parameters():
            parts = [key for key in state if key.startswith(f"adam.{name}.")]
            self.optimiser.state[parameter] = {key.rpartition(".")[2]: state[key] for key in parts}
        self.sums = {key.removeprefix("sum."): tensor for key, tensor in state.items() if key.startswith("sum.")}
        self.idle, self.dead = state["idle"], state["dead"]
        torch.set_rng_state(state["rng"].cpu())
        self.steps_done, self.tokens, self.seconds = facts["steps_done"], facts["tokens"], facts["seconds"]
        self._window = (facts["window"][0], facts["window"][1])


def _cut_log(file: Path, steps: int) -> None:
    """Drops the lines after a step: they will be written again."""
    if file.is_file():
        kept = [row for row in read_log(file.parent) if row.step <= steps]
        write_atomically(file, "".join(json.dumps(to_dict(row)) + "\n" for row in kept))


def _check(config: TrainConfig) -> None:
    counts = {"steps": config.steps, "batch_size": config.batch_size, "log_every": config.log_every, "sample": config.sample}
    for name, count in counts.items():
        if count < 1:
            raise Invalid(f"{name} is {count}; it must be at least 1.")
    if config.lr is not None and not config.lr > 0:
        raise Invalid(f"lr is {config.lr}; it must be positive.")
    if config.betas is not None and not all(0 <= beta < 1 for beta in config.betas):
        raise Invalid(f"betas are {config.betas}; both must be from 0 to below 1.")
    if not 0 <= config.decay <= 1:
        raise Invalid(f"decay is {config.decay}; it is a share of the run, between 0 and 1.")


def _check_batch(x: Tensor, d_in: int) -> None:
    if x.ndim != 2 or x.shape[1] != d_in or not len(x):
        raise Invalid(f"A batch has shape {list(x.shape)}; the dictionary reads rows of {d_in} values.")
