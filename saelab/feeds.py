"""What dictionaries are made from: the hooks of a training or fit, and what those on the same hooks share."""

from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.activations.base import ActivationStore
from saelab.activations.buffer import BufferConfig, RingBuffer
from saelab.activations.labelled import LabelledStore, LabelledStream
from saelab.activations.shuffle import Shuffled, first_rows
from saelab.activations.stream import SubjectStore
from saelab.activations.vectors import VECTORS, Vectors, VectorStore
from saelab.analyses.checkup import Checkup
from saelab.corpus import Corpus
from saelab.dictionary import Dictionary
from saelab.errors import Invalid
from saelab.lab import run_subject, stored
from saelab.provenance import Provenance
from saelab.run import Run
from saelab.subject import Subject
from saelab.training import Batches, TrainConfig
from saelab.values import value


@value
class Reading:
    """Which activations a dictionary is made from."""

    hook: str
    """Where it reads, in TransformerLens names, such as `blocks.14.hook_resid_post`."""
    source: str
    """The dictionary's name in the run, such as `14-res-topk`."""
    order: int = 0
    """Seed of the order in which the activations come."""
    stream: BufferConfig | None = None
    """Train straight from the subject through such a buffer, without captured activations; none to train on those of `capture`."""
    target_hook: str | None = None
    """Where a transcoder writes."""
    beside: tuple[str, ...] = ()
    """Further hooks: a crosscoder reads and writes them side by side with `hook`; any other dictionary is trained on all, if `pooled`."""
    pooled: bool = False
    """Train one dictionary on the rows of `hook` and of the hooks beside it; it is then looked at where `hook` is."""
    vectors: Vectors | None = None
    """Train on vectors from a file, without subject and text; `hook` is then `vectors`."""
    concept: tuple[str, ...] = ()
    """Domains whose documents carry the concept that is taught; documents of the others do not."""


@value
class TrainStage(Reading):
    """Which activations a dictionary is trained on, and how."""

    epochs: float | None = None
    """Passes over the training activations; none for `train.steps` optimiser steps."""
    train: TrainConfig = TrainConfig()
    """The trainer's own settings."""
    device: str = "auto"
    """Where it is trained: `cpu`, `cuda`, ...; `auto` takes a GPU if there is one."""


class Reads(NamedTuple):
    """Which activations a training reads: those that read the same share them."""

    hook: str
    """The first hook."""
    target_hook: str | None
    """Where a transcoder writes."""
    beside: tuple[str, ...]
    """Further hooks."""
    pooled: bool
    """Whether they give rows of their own."""
    stream: BufferConfig | None
    """The buffer, where they come straight from the subject."""
    vectors: Vectors | None
    """The file, where they come from no subject."""
    concept: tuple[str, ...]
    """Domains whose rows have the label of the concept."""

    @classmethod
    def of(cls, config: Reading) -> "Reads":
        """What a training reads."""
        return cls(config.hook, config.target_hook, config.beside, config.pooled, config.stream, config.vectors, config.concept)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Every hook, in the order in which a row holds them."""
        return (self.hook, *([self.target_hook] if self.target_hook else []), *self.beside)


def check_hooks(config: Reading, kind: type[Dictionary]) -> None:
    """Refuses hooks that do not suit the architecture. Raises `Invalid`."""
    hooks, name = Reads.of(config).hooks, kind.architecture
    if len(set(hooks)) < len(hooks):
        raise Invalid(f"The hooks {', '.join(hooks)} name one place twice. Name each once.")
    if (kind.places == "target") != (config.target_hook is not None):
        wrong = "writes at another hook: give target_hook" if kind.places == "target" else "writes where it reads: leave target_hook out"
        raise Invalid(f"A dictionary of the kind {name} {wrong}.")
    if (kind.places == "labelled") != bool(config.concept):
        wrong = "is taught a concept: name the domains that carry it in concept" if kind.places == "labelled" else "is taught no concept"
        raise Invalid(f"A dictionary of the kind {name} {wrong}.")
    if config.pooled and (kind.places != "hook" or not config.beside):
        raise Invalid(
            f"Pooled rows need two hooks at least, and a dictionary that reads one at a time; {name} on {', '.join(hooks)} is not so."
        )
    if not config.pooled and (kind.places == "hooks") != bool(config.beside):
        wrong = "reads several hooks: name the others in beside" if kind.places == "hooks" else "reads one hook: leave beside out, or pool"
        raise Invalid(f"A dictionary of the kind {name} {wrong}.")
    if config.vectors is not None and (hooks != (VECTORS,) or config.stream is not None or config.concept):
        raise Invalid(
            f"Vectors from a file come from no subject: give the hook as {VECTORS!r}, no other hook, no concept, and do not stream."
        )


class Feed:
    """What trainings on the same activations share: the store, its batches, and what they are evaluated on.

    Arguments:
    - `run`: the run.
    - `reads`: which of its activations.

    Raises `NotFound` with the command that captures them.
    """

    def __init__(self, run: Run, reads: Reads) -> None:
        self.run, self.reads = run, reads
        self.batches = cache(self._batches)
        """Batches of a size in an order for a device: the same object for the same stream."""
        self.store: ActivationStore
        if reads.vectors is not None:
            self.store, self.model, self.dtype = VectorStore(reads.vectors), Path(reads.vectors.file).stem, "float32"
            return
        facts = run.need("read").facts
        self.model, self.dtype = str(facts["model"]), str(facts["dtype"])
        if reads.stream is None:
            self.store = stored(run, reads.hooks, reads.pooled)
        else:
            self.store = SubjectStore(self.subject, self.corpus, reads.stream, reads.hooks, pooled=reads.pooled, device=self.subject.device)

    @cached_property
    def subject(self) -> Subject:
        """The model."""
        return run_subject(self.run)

    @cached_property
    def corpus(self) -> Corpus:
        """Its windows."""
        return Corpus.open(self.run.corpus)

    def provenance(self) -> Provenance:
        """What a dictionary that is trained on it is told of its activations."""
        return provenance_of(self.model, self.store, self.reads.hook, self.reads.target_hook, self.reads.beside, self.reads.pooled)

    def evaluation(self, config: TrainConfig) -> Checkup | None:
        """What a training is evaluated on; none where it is not."""
        if config.evaluate_every is not None:
            return self._checkup if config.evaluate_every else None
        rows = sum(self.store.chunk_rows(held_out=True))
        possible = rows > 0 and (self.reads.vectors is not None or int(self.corpus.window_held_out.sum()) > 1)
        return self._checkup if possible else None

    @cached_property
    def _checkup(self) -> Checkup:
        return Checkup(self.store) if self.reads.vectors else Checkup(self.store, self.subject, self.corpus)

    def sample(self, num_rows: int, order: int) -> Float[Tensor, "row width"]:
        """Training rows in random order, at most so many, each with the label of the concept behind it where there is one."""
        return first_rows(self._labelled, num_rows, order)

    @property
    def _labelled(self) -> ActivationStore:
        return LabelledStore(self.store, self.corpus, self.reads.concept) if self.reads.concept else self.store

    def _batches(self, size: int, order: int, device: torch.device) -> Batches:
        if self.reads.stream is not None:
            assert isinstance(self.store, SubjectStore), "a stream comes from a subject"
            stream = LabelledStream(self.store, self.corpus, self.reads.concept) if self.reads.concept else self.store
            return RingBuffer(stream, self.reads.stream.rows, size, order)
        return Shuffled(self._labelled, size, order, None if self.reads.vectors else self.corpus, device)


def provenance_of(
    model: str, store: ActivationStore, hook: str, target_hook: str | None = None, beside: tuple[str, ...] = (), pooled: bool = False
) -> Provenance:
    """What a dictionary must know of the activations of a store that it reads."""
    policy = store.policy
    return Provenance(
        model=model,
        hook=hook,
        context=policy.context,
        prepend_bos=policy.prepend_bos,
        skip_first=policy.skip_first,
        special_ids=policy.special_ids,
        uncounted=policy.uncounted,
        max_norm=store.max_norms[0],
        target_hook=target_hook,
        beside=beside,
        pooled=pooled,
        other_norms=store.max_norms[1:],
    )
