"""The stages: each reads what the one before it wrote, writes its own folder, and leaves its manifest last.

Every stage can be called again: done with the same config it does nothing, half done it resumes, done with another config it refuses and
names the field.
"""

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from saelab.activations.base import ActivationStore
from saelab.activations.buffer import BufferConfig, RingBuffer
from saelab.activations.capture import CaptureConfig
from saelab.activations.capture import capture as capture_activations
from saelab.activations.shuffle import batches, steps_of
from saelab.activations.stream import SubjectStore
from saelab.activations.vectors import VECTORS, Vectors, VectorStore
from saelab.analyses.quality import EvaluateConfig
from saelab.analyses.quality import evaluate as measure_quality
from saelab.corpus import Corpus, TokenPolicy, read_corpus
from saelab.dictionary import DICTIONARIES, Trainable
from saelab.errors import Conflict, Invalid
from saelab.features.collect import CollectConfig, forget
from saelab.features.collect import collect as collect_features
from saelab.features.geometry import logit_lens, neighbours
from saelab.features.write import write_features
from saelab.lab import Lab, load_subject, run_subject, stored, widths_of
from saelab.labellers.base import LABELLERS, Labeller, label_features
from saelab.provenance import Provenance
from saelab.registry import Registry
from saelab.run import Run, Stages, differences, write_atomically
from saelab.scorers.base import SCORERS, Scorer, score_features
from saelab.subject import SubjectConfig
from saelab.texts.base import TEXTS, TextSource
from saelab.training import Batches, TrainConfig, Trainer
from saelab.values import from_dict, to_dict, to_json, value

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
    train: TrainConfig = TrainConfig()
    """The trainer's own settings."""
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


def capture_hook(run: Run, hook: str) -> DiskStore:
    """Activations of one hook, captured as the run's other hooks were, where it has any."""
    done = run.manifest("capture")
    config = from_dict(CaptureConfig, done.config) if done else CaptureConfig(hooks=(hook,))
    capture(run, replace(config, hooks=(hook,)))
    return DiskStore(run.activations(hook))


def source_folder(run: Run, source: str) -> Stages:
    """The folder of a dictionary to be made. Raises `Invalid` for what cannot be a name."""
    if not _NAME.fullmatch(source):
        raise Invalid(f"{source!r} cannot be a dictionary's name. Use letters, digits, '-', '_' and '.', such as 14-res-topk.")
    return run.source(source)


def provenance_of(run: Run, hook: str, store: DiskStore) -> Provenance:
    """What a dictionary that reads a run's activations must know of them."""
    policy = store.policy
    return Provenance(
        model=run.need("read").facts["model"],
        hook=hook,
        context=policy.context,
        prepend_bos=policy.prepend_bos,
        skip_first=policy.skip_first,
        special_ids=policy.special_ids,
        max_norm=store.max_norm,
    )


def train(run: Run, config: TrainStage, sae: Any) -> None:  # noqa: ANN401 - the Config of any trainable dictionary
    """A dictionary trained on the activations of one hook, in `dictionaries/<source>/`."""
    kind = architecture_of(sae)
    check_hooks(config, kind)
    folder = source_folder(run, config.source)
    described = {**to_dict(config), "sae": {"kind": kind.architecture, **to_dict(sae)}}
    if folder.done("train", described):
        return
    began = time.monotonic()
    store, model, dtype = _activations(run, config)
    settings = config.train
    if config.epochs is not None:
        settings = replace(settings, steps=steps_of(store, settings.batch_size, config.epochs))
    if settings.precision == "auto":
        settings = replace(settings, precision="bf16" if dtype == "bfloat16" else "fp32")
    dictionary = kind.for_widths(widths_of(store), sae)
    policy = store.policy
    dictionary.provenance = Provenance(
        model=model,
        hook=config.hook,
        context=policy.context,
        prepend_bos=policy.prepend_bos,
        skip_first=policy.skip_first,
        special_ids=policy.special_ids,
        max_norm=store.max_norms[0],
        target_hook=config.target_hook,
        beside=config.beside,
        pooled=config.pooled,
        other_norms=store.max_norms[1:],
    )
    trainer = Trainer(dictionary, settings, folder.path)
    trainer.fit(_batches(store, config, settings))
    facts = {
        "architecture": kind.architecture,
        "model": model,
        "hook": config.hook,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "steps": settings.steps,
        "tokens": trainer.tokens,
        "train_seconds": round(trainer.seconds, 1),
    }
    folder.finish("train", described, facts, began)


def _activations(run: Run, config: TrainStage) -> tuple[ActivationStore, str, str]:
    """What a training reads, the id of the subject that it comes from, and the subject's number format."""
    if config.vectors is not None:
        if hooks_of(config) != (VECTORS,) or config.stream is not None:
            raise Invalid(f"Vectors from a file come from no subject: give the hook as {VECTORS!r}, no other hook, and do not stream.")
        return VectorStore(config.vectors), Path(config.vectors.file).stem, "float32"
    facts = run.need("read").facts
    hooks = hooks_of(config)
    if config.stream is None:
        return stored(run, hooks, config.pooled), facts["model"], facts["dtype"]
    store = SubjectStore(run_subject(run), Corpus.open(run.corpus), config.stream, hooks, pooled=config.pooled)
    return store, facts["model"], facts["dtype"]


def hooks_of(config: TrainStage) -> tuple[str, ...]:
    """Every hook that a training reads, in the order in which a row holds them."""
    return (config.hook, *([config.target_hook] if config.target_hook else []), *config.beside)


def check_hooks(config: TrainStage, kind: type[Trainable]) -> None:
    """Refuses hooks that do not suit the architecture. Raises `Invalid`."""
    hooks, name = hooks_of(config), kind.architecture
    if len(set(hooks)) < len(hooks):
        raise Invalid(f"The hooks {', '.join(hooks)} name one place twice. Name each once.")
    if (kind.places == "target") != (config.target_hook is not None):
        wrong = "writes at another hook: give target_hook" if kind.places == "target" else "writes where it reads: leave target_hook out"
        raise Invalid(f"A dictionary of the kind {name} {wrong}.")
    if config.pooled and (kind.places != "hook" or not config.beside):
        raise Invalid(
            f"Pooled rows need two hooks at least, and a dictionary that reads one at a time; {name} on {', '.join(hooks)} is not so."
        )
    if not config.pooled and (kind.places == "hooks") != bool(config.beside):
        wrong = "reads several hooks: name the others in beside" if kind.places == "hooks" else "reads one hook: leave beside out, or pool"
        raise Invalid(f"A dictionary of the kind {name} {wrong}.")


def _batches(store: ActivationStore, config: TrainStage, settings: TrainConfig) -> Batches:
    if config.stream is not None:
        assert isinstance(store, SubjectStore), "a stream comes from a subject"
        return RingBuffer(store, config.stream.rows, settings.batch_size, settings.seed)
    return lambda step: batches(store, settings.batch_size, settings.seed, settings.steps, step)


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
    chunks = (replace(chunk, x=chunk.x[:, : lab.dictionary.d_in]) for chunk in lab.store.chunks())  # without a target behind it
    collected = collect_features(lab.dictionary, chunks, lab.corpus, config, folder)
    directions = lab.dictionary.directions
    write_features(
        folder / "features.db",
        lab.subject.name,
        lab.source,
        collected,
        lab.subject.vocabulary,
        neighbours(directions),
        logit_lens(directions[:, -lab.dictionary.widths[-1] :], lab.subject.unembed),  # of several hooks the last, nearest to the logits
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
