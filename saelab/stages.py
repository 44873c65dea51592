"""The stages: each reads what the one before it wrote, writes its own folder, and leaves its manifest last.

Every stage can be called again: done with the same config it does nothing, half done it resumes, done with another config it refuses and
names the field.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from saelab.activations.base import ActivationStore
from saelab.activations.buffer import BufferConfig, RingBuffer
from saelab.activations.capture import CaptureConfig
from saelab.activations.capture import capture as capture_activations
from saelab.activations.shuffle import Shuffled, steps_of
from saelab.activations.stream import SubjectStore
from saelab.activations.vectors import VECTORS, Vectors, VectorStore
from saelab.analyses.checkup import Checkup
from saelab.analyses.quality import EvaluateConfig
from saelab.analyses.quality import evaluate as measure_quality
from saelab.corpus import Corpus, TokenPolicy, read_corpus
from saelab.dictionary import DICTIONARIES, Provenance, Trainable
from saelab.errors import Conflict, Invalid
from saelab.features.collect import CollectConfig, forget
from saelab.features.collect import collect as collect_features
from saelab.features.geometry import logit_lens, neighbours
from saelab.features.write import write_features
from saelab.lab import Lab, load_subject, run_subject, stored
from saelab.labellers.base import LABELLERS, Labeller, label_features
from saelab.registry import Registry
from saelab.run import Run, differences, write_atomically
from saelab.scorers.base import SCORERS, Scorer, score_features
from saelab.subject import Subject, SubjectConfig
from saelab.sweep import Member, fit
from saelab.texts.base import TEXTS, TextSource
from saelab.training import Batches, TrainConfig, Trainer
from saelab.values import to_dict, to_json, value

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@value
class ReadConfig:
    """How text becomes token windows."""

    subject: SubjectConfig = SubjectConfig()
    """The model whose tokenizer reads the text, and whose activations will be captured."""
    context: int = 128
    """Tokens in a window, at most; never more than the model can read."""
    prepend_bos: bool | None = None
    """Begin windows with the beginning-of-sequence token; none for what the model's own tokenizer does."""
    max_tokens: int | None = None
    """Stop reading after so many tokens; none for all."""


@value
class TrainStage:
    """Which activations a dictionary is trained on, and how."""

    hook: str
    """Where it reads, in TransformerLens names, such as `blocks.14.hook_resid_post`."""
    source: str
    """The dictionary's name in the run, such as `14-res-topk`."""
    epochs: float | None = None
    """Passes over the training activations; none for `train.steps` optimiser steps."""
    order: int = 0
    """Seed of the order in which the activations come; dictionaries with the same order, hook and batch size can be trained in one pass."""
    train: TrainConfig = TrainConfig()
    """The trainer's own settings."""
    stream: BufferConfig | None = None
    """Train straight from the subject through such a buffer, without captured activations; none to train on those of `capture`."""
    vectors: Vectors | None = None
    """Train on vectors from a file, without subject and text; `hook` is then `vectors`."""


def read(run: Run, config: ReadConfig, texts: TextSource) -> None:
    """Text to token windows in `corpus/`."""
    described = {**to_dict(config), "texts": _described(TEXTS, texts)}
    if run.done("read", described):
        return
    began = time.monotonic()
    subject = load_subject(config.subject)
    policy = TokenPolicy(
        context=min(config.context, subject.max_context),
        prepend_bos=subject.adds_bos if config.prepend_bos is None else config.prepend_bos,
        special_ids=subject.special_ids,
        bos_id=subject.bos_id,
    )
    corpus = read_corpus(texts, subject.encode, policy, run.corpus, config.max_tokens, subject.chat_text)
    run.finish("read", described, {**corpus.facts, "model": subject.name, "dtype": str(subject.dtype).removeprefix("torch.")}, began)


def capture(run: Run, config: CaptureConfig) -> None:
    """Activations of the corpus at some hooks, one store a hook. Hooks that an earlier call captured stay."""
    run.need("read")
    done = run.manifest("capture")
    captured: list[str] = done.facts["hooks"] if done else []
    missing = [hook for hook in config.hooks if hook not in captured]
    if done:
        changed = differences({**done.config, "hooks": None}, {**to_dict(config), "hooks": None})
        if changed:
            raise Conflict(f"{run.path} holds activations captured with another config ({'; '.join(changed)}). Use another run folder.")
        if config.hooks and not missing:
            return
    began = time.monotonic()
    hooks = [*captured, *missing]
    stores = capture_activations(run_subject(run), Corpus.open(run.corpus), replace(config, hooks=tuple(missing)), run.activations)
    rows = {**(done.facts["num_rows"] if done else {}), **{hook: store.num_rows for hook, store in stores.items()}}
    run.finish("capture", replace(config, hooks=tuple(hooks)), {"hooks": hooks, "num_rows": rows}, began)


def train(run: Run, config: TrainStage, sae: Any) -> None:  # noqa: ANN401 - the Config of any trainable dictionary
    """A dictionary trained on the activations of one hook, in `dictionaries/<source>/`."""
    train_together(run, [(config, sae)])


def train_together(run: Run, jobs: Sequence[tuple[TrainStage, Any]]) -> None:
    """Dictionaries trained in one pass over the activations of each hook; each is what `train` would have made of it.

    Those that are done are left out. Raises `Conflict` before any work where one of them was made with another config.
    """
    names = [config.source for config, _ in jobs]
    for name in names:
        if not _NAME.fullmatch(name):
            raise Invalid(f"{name!r} cannot be a dictionary's name. Use letters, digits, '-', '_' and '.', such as 14-res-topk.")
        if names.count(name) > 1:
            raise Invalid(f"Two dictionaries would be named {name!r}. Each needs a name of its own.")
    left = [(config, sae) for config, sae in jobs if not run.source(config.source).done("train", training_config(config, sae))]
    activations = cache(lambda reads: _Activations(run, reads))
    fit([_member(run, config, sae, activations(_Reads(config.hook, config.stream, config.vectors))) for config, sae in left])


def training_config(config: TrainStage, sae: object) -> dict[str, Any]:
    """What the manifest of a training says of its config."""
    return {**to_dict(config), "sae": {"kind": architecture_of(sae).architecture, **to_dict(sae)}}


class _Reads(NamedTuple):
    """Which activations a training reads: those with the same are read once."""

    hook: str
    stream: BufferConfig | None
    vectors: Vectors | None


class _Activations:
    """What trainings on the same activations share: the store, its batches, and what they are evaluated on."""

    def __init__(self, run: Run, reads: _Reads) -> None:
        self.run, self.reads = run, reads
        self.batches = cache(self._batches)  # the same object for the same stream
        if reads.vectors is not None:
            if reads.hook != VECTORS or reads.stream is not None:
                raise Invalid(f"Vectors from a file come from no subject: give the hook as {VECTORS!r}, and do not stream.")
            self.store, self.model, self.dtype = VectorStore(reads.vectors), Path(reads.vectors.file).stem, "float32"
        else:
            facts = run.need("read").facts
            self.model, self.dtype = str(facts["model"]), str(facts["dtype"])
            self.store = self._stored() if reads.stream is None else SubjectStore(self.subject, self.corpus, reads.stream, (reads.hook,))

    def _stored(self) -> ActivationStore:
        return stored(self.run, self.reads.hook)

    @cached_property
    def subject(self) -> Subject:
        return run_subject(self.run)

    @cached_property
    def corpus(self) -> Corpus:
        return Corpus.open(self.run.corpus)

    def _batches(self, size: int, order: int) -> Batches:
        if self.reads.stream is not None:
            assert isinstance(self.store, SubjectStore), "a stream comes from a subject"
            return RingBuffer(self.store, self.reads.stream.rows, size, order)
        return Shuffled(self.store, size, order, None if self.reads.vectors else self.corpus)

    @cached_property
    def checkup(self) -> Checkup:
        return Checkup(self.store) if self.reads.vectors else Checkup(self.store, self.subject, self.corpus)

    def evaluation(self, config: TrainConfig) -> Checkup | None:
        """What a training is evaluated on; none where it is not."""
        if config.evaluate_every is not None:
            return self.checkup if config.evaluate_every else None
        rows = sum(self.store.chunk_rows(held_out=True))
        possible = rows > 0 and (self.reads.vectors is not None or int(self.corpus.window_held_out.sum()) > 1)
        return self.checkup if possible else None


def _member(run: Run, config: TrainStage, sae: Any, activations: _Activations) -> Member:  # noqa: ANN401 - as in train
    """A training, ready to begin or to go on."""
    began, store, settings = time.monotonic(), activations.store, config.train
    if config.epochs is not None:
        settings = replace(settings, steps=steps_of(store, settings.batch_size, config.epochs))
    if settings.precision == "auto":
        settings = replace(settings, precision="bf16" if activations.dtype == "bfloat16" else "fp32")
    kind, policy, folder = architecture_of(sae), store.policy, run.source(config.source)
    dictionary = kind(store.d_in, sae)
    dictionary.provenance = Provenance(
        model=activations.model,
        hook=store.hook,
        context=policy.context,
        prepend_bos=policy.prepend_bos,
        skip_first=policy.skip_first,
        special_ids=policy.special_ids,
        max_norm=store.max_norm,
    )
    trainer = Trainer(dictionary, settings, folder.path, activations.evaluation(settings))

    def finished(trainer: Trainer) -> None:
        facts = {
            "architecture": kind.architecture,
            "model": activations.model,
            "hook": store.hook,
            "d_in": dictionary.d_in,
            "d_sae": dictionary.d_sae,
            "steps": settings.steps,
            "tokens": trainer.tokens,
            "train_seconds": round(trainer.seconds, 1),
        }
        folder.finish("train", training_config(config, sae), facts, began)

    described = {**to_dict(config), "train": None, "source": None}
    return Member(trainer, activations.batches(settings.batch_size, config.order), reads=described, finished=finished)


def evaluate(run: Run, config: EvaluateConfig, source: str | None = None) -> None:
    """The dictionary's quality on held-out documents, in `quality.json`."""
    lab = Lab(run, source)
    if lab.folder.done("evaluate", config):
        return
    began = time.monotonic()
    quality = measure_quality(lab, config)
    write_atomically(lab.folder.path / "quality.json", to_json(quality))
    lab.folder.finish("evaluate", config, {"fvu": quality.fvu.value, "l0": quality.l0.value}, began)


def collect(run: Run, config: CollectConfig, source: str | None = None) -> None:
    """Statistics, examples and geometry of every feature, in `features.db`."""
    lab = Lab(run, source)
    if lab.folder.done("collect", config):
        return
    began, folder = time.monotonic(), lab.folder.path
    collected = collect_features(lab.dictionary, lab.store.chunks(), lab.corpus, config, folder)
    directions = lab.dictionary.directions
    write_features(
        folder / "features.db",
        lab.subject.name,
        lab.source,
        collected,
        lab.subject.vocabulary,
        neighbours(directions),
        logit_lens(directions, lab.subject.unembed),
    )
    num_tokens = collected.statistics.num_tokens
    forget(folder)
    lab.folder.finish("collect", config, {"num_tokens": num_tokens, "num_features": lab.dictionary.d_sae}, began)


def label(run: Run, labeller: Labeller, source: str | None = None) -> None:
    """A label for every feature, in `features.db`."""
    lab, described = Lab(run, source), _described(LABELLERS, labeller)
    if lab.folder.done("label", described):
        return
    began = time.monotonic()
    label_features(lab.features, labeller)
    lab.folder.finish("label", described, {"num_labelled": lab.features.num_labelled()}, began)


def score(run: Run, scorer: Scorer, source: str | None = None) -> None:
    """Held-out scores of every label, in `features.db`."""
    lab, described = Lab(run, source), _described(SCORERS, scorer)
    labels = lab.folder.need("label")
    if lab.folder.done("score", described):
        return
    began = time.monotonic()
    num = score_features(lab.features, scorer, labels.config["kind"])
    lab.folder.finish("score", described, {"num_scored": num}, began)


def architecture_of(sae: object) -> type[Trainable]:
    """The dictionary class whose config this is."""
    for name in DICTIONARIES:
        kind = DICTIONARIES[name]
        if issubclass(kind, Trainable) and type(sae) is kind.Config:
            return kind
    raise AssertionError(f"{type(sae).__name__} is no dictionary's config")


def source_name(hook: str, architecture: str) -> str:
    """The usual name of a dictionary: `blocks.14.hook_resid_post` and `topk` give `14-res-topk`."""
    if hook == VECTORS:
        return f"{VECTORS}-{architecture}"
    _, layer, place = hook.split(".", 2)
    short = {
        "hook_resid_post": "res",
        "hook_resid_pre": "res-pre",
        "hook_resid_mid": "res-mid",
        "hook_mlp_out": "mlp",
        "hook_attn_out": "att",
    }
    return f"{layer}-{short.get(place, place.replace('hook_', '').replace('.', '-').replace('_', '-'))}-{architecture}"


def _described(registry: Registry[Any], item: object) -> dict[str, Any]:
    """A registered part as JSON: its name beside its fields."""
    return {"kind": registry.name_of(type(item)), **to_dict(item)}
