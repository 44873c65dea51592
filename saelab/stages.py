"""The stages: each reads what the one before it wrote, writes its own folder, and leaves its manifest last.

Every stage can be called again: done with the same config it does nothing, half done it resumes, done with another config it refuses and
names the field.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saelab.activations.capture import CaptureConfig
from saelab.activations.capture import capture as capture_activations
from saelab.activations.shuffle import steps_of
from saelab.activations.vectors import VECTORS
from saelab.analyses.coverage import ControlsConfig, Coverage, measure_controls
from saelab.analyses.quality import EvaluateConfig
from saelab.analyses.quality import evaluate as measure_quality
from saelab.corpus import Corpus, read_corpus
from saelab.devices import usable
from saelab.dictionary import DICTIONARIES, Trainable
from saelab.errors import Conflict, Invalid, unknown
from saelab.features.collect import CollectConfig, forget
from saelab.features.collect import collect as collect_features
from saelab.features.geometry import LogitLens, logit_lens, neighbours
from saelab.features.write import write_features
from saelab.feeds import Feed, Reads, TrainStage, check_hooks
from saelab.lab import Lab, load_subject, run_subject, widths_of
from saelab.labellers.base import LABELLERS, Labeller, label_features
from saelab.llm import spent
from saelab.policy import TokenKind, TokenPolicy
from saelab.progress import note
from saelab.registry import Registry
from saelab.run import Run, Stages, differences, write_atomically
from saelab.scorers.base import SCORERS, Scorer, score_features
from saelab.subject import Subject, SubjectConfig
from saelab.sweep import Member, fit
from saelab.texts.base import TEXTS, TextSource
from saelab.training import Trainer
from saelab.values import from_dict, to_dict, to_json, value
from saelab.weights import slug

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@value
class ReadConfig:
    """How text becomes token windows."""

    subject: SubjectConfig = SubjectConfig()
    """The model whose tokenizer reads the text, and whose activations will be captured."""
    context: int = 128
    """Tokens in a window, at most; never more than the model can read."""
    prepend_bos: bool | None = None
    """Begin windows with the beginning-of-sequence token; none for what the model's own tokenizer does with texts. The template of a
    conversation brings one itself where the model wants it."""
    skip_first: int = 1
    """Positions at the start of every window that do not count."""
    uncounted: tuple[TokenKind, ...] = ("bos", "special")
    """Kinds of tokens that do not count. To learn from what the assistant says alone: bos special system user tool template."""
    max_tokens: int | None = None
    """Stop reading after so many tokens; none for all."""


def read(run: Run, config: ReadConfig, texts: TextSource) -> None:
    """Text to token windows in `corpus/`."""
    described = {**to_dict(config), "texts": _described(TEXTS, texts)}
    if run.done("read", described):
        return
    began = time.monotonic()
    subject = load_subject(config.subject)
    policy = _policy(config, subject, texts)
    check_made_with(texts, subject)
    corpus = read_corpus(
        texts, subject.encode, policy, run.corpus, config.max_tokens, chat=subject.encode_chat, num_ids=len(subject.vocabulary)
    )
    facts = {"model": subject.name, "dtype": str(subject.dtype).removeprefix("torch."), "context": policy.context}
    if policy.context < config.context:
        note(f"Windows have {policy.context} tokens, not {config.context}: {subject.name} reads no more.")
    if corpus.facts["cut_documents"]:
        note(
            f"{corpus.facts['cut_documents']:,} of {corpus.num_documents:,} conversations were cut at {policy.context} tokens (--context)."
        )
    run.finish("read", described, {**corpus.facts, **facts}, began)


def _policy(config: ReadConfig, subject: Subject, texts: TextSource) -> TokenPolicy:
    own = subject.adds_bos and not texts.has_conversations
    return TokenPolicy(
        context=min(config.context, subject.max_context),
        prepend_bos=own if config.prepend_bos is None else config.prepend_bos,
        bos_id=subject.bos_id,
        skip_first=config.skip_first,
        special_ids=subject.special_ids,
        uncounted=config.uncounted,
        one_window=texts.has_conversations,
    )


def check_made_with(texts: TextSource, subject: Subject) -> None:
    """Raises `Invalid` for token ids that another model's tokenizer made, as far as the source knows whose it was."""
    made = texts.made_with
    own = {subject.name, slug(Path(subject.tokenizer.name_or_path).name)}
    if made is not None and slug(Path(made).name) not in own:
        raise Invalid(
            f"The token ids were made with the tokenizer of {made}, and the subject is {subject.name}. Read with that model; or, "
            f"where both have the same tokenizer, say so with --texts.tokenizer {subject.name}."
        )


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


def capture_hooks(run: Run, hooks: Sequence[str]) -> None:
    """Captures hooks as the run's other hooks were captured, where it has any."""
    done = run.manifest("capture")
    config = from_dict(CaptureConfig, done.config) if done else CaptureConfig(hooks=tuple(hooks))
    capture(run, replace(config, hooks=tuple(hooks)))


def source_folder(run: Run, source: str) -> Stages:
    """The folder of a dictionary to be made. Raises `Invalid` for what cannot be a name."""
    if not _NAME.fullmatch(source):
        raise Invalid(f"{source!r} cannot be a dictionary's name. Use letters, digits, '-', '_' and '.', such as 14-res-topk.")
    return run.source(source)


def train(run: Run, config: TrainStage, sae: Any) -> None:  # noqa: ANN401 - the Config of any trainable dictionary
    """A dictionary trained on the activations of some hooks, in `dictionaries/<source>/`."""
    train_together(run, [(config, sae)])


def train_together(run: Run, jobs: Sequence[tuple[TrainStage, Any]]) -> None:
    """Dictionaries trained in one pass over the activations of each hook; each is what `train` would have made of it.

    Those that are done are left out. Raises `Conflict` before any work where one of them was made with another config.
    """
    names = [config.source for config, _ in jobs]
    for config, sae in jobs:
        check_hooks(config, architecture_of(sae))
        if names.count(config.source) > 1:
            raise Invalid(f"Two dictionaries would be named {config.source!r}. Each needs a name of its own.")
    left = [(config, sae) for config, sae in jobs if not source_folder(run, config.source).done("train", training_config(config, sae))]
    feeds = cache(lambda reads: Feed(run, reads))
    fit([_member(run, config, sae, feeds(Reads.of(config))) for config, sae in left])


def training_config(config: TrainStage, sae: object) -> dict[str, Any]:
    """What the manifest of a training says of its config."""
    return {**to_dict(config), "sae": {"kind": architecture_of(sae).architecture, **to_dict(sae)}}


def _member(run: Run, config: TrainStage, sae: Any, feed: Feed) -> Member:  # noqa: ANN401 - as in train
    """A training, ready to begin or to go on."""
    began, settings = time.monotonic(), config.train
    if config.epochs is not None:
        settings = replace(settings, steps=steps_of(feed.store, settings.batch_size, config.epochs))
    if settings.precision == "auto":
        settings = replace(settings, precision="bf16" if feed.dtype == "bfloat16" else "fp32")
    kind, folder = architecture_of(sae), run.source(config.source)
    dictionary = kind.for_widths(widths_of(feed.store), sae).to(usable(config.device))
    dictionary.locate(feed.provenance())
    trainer = Trainer(dictionary, settings, folder.path, feed.evaluation(settings))

    def finished(trainer: Trainer) -> None:
        facts = {
            "architecture": kind.architecture,
            "model": feed.model,
            "hook": config.hook,
            "d_in": dictionary.d_in,
            "d_sae": dictionary.d_sae,
            "steps": settings.steps,
            "tokens": trainer.tokens,
            "train_seconds": round(trainer.seconds, 1),
        }
        folder.finish("train", training_config(config, sae), facts, began)

    described = {**to_dict(config), "train": None, "source": None}
    return Member(trainer, feed.batches(settings.batch_size, config.order), reads=described, finished=finished)


def evaluate(run: Run, config: EvaluateConfig, source: str | None = None) -> None:
    """The dictionary's quality on held-out documents, in `quality.json`."""
    lab = Lab(run, source)
    if lab.folder.done("evaluate", config):
        return
    began = time.monotonic()
    quality = measure_quality(lab, config)
    write_atomically(lab.folder.path / "quality.json", to_json(quality))
    lab.folder.finish("evaluate", config, {"fvu": quality.fvu.value, "l0": quality.l0.value, **_models(lab)}, began)


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
        _lens(lab, directions[:, -lab.dictionary.widths[-1] :]),  # of several hooks the last, nearest to the logits
    )
    num_tokens = collected.statistics.num_tokens
    forget(folder)
    lab.folder.finish("collect", config, {"num_tokens": num_tokens, "num_features": lab.dictionary.d_sae, **_models(lab)}, began)


def _models(lab: Lab) -> dict[str, str]:
    """The subject, and the one that the dictionary was trained on: a base model's dictionary may be used on a fine-tuned one."""
    assert lab.dictionary.provenance is not None, "a dictionary of a run knows its model"
    return {"model": lab.origin.model if lab.vectors else lab.subject.name, "trained_on": lab.origin.model}


def _lens(lab: Lab, directions: Float[Tensor, "feature d"]) -> LogitLens | None:
    """What the features promote; nothing where their directions are not in the residual stream."""
    return logit_lens(directions, lab.subject.unembed) if directions.shape[1] == lab.subject.d_model else None


def label(run: Run, labeller: Labeller, source: str | None = None, features: Sequence[int] = (), preview: bool = False) -> None:
    """A label for every feature, in `features.db`, beside those of other labellers. Named features alone leave the stage undone.

    With `preview` it says what that will cost, and does nothing.
    """
    lab, name = Lab(run, source), LABELLERS.name_of(type(labeller))
    if lab.folder.part_done("label", name, labeller):
        return
    began = time.monotonic()
    label_features(lab.features, labeller, features or None, preview)
    if not features and not preview:
        facts = {"num_labelled": lab.features.num_labelled(), "labeller": name, **spent(labeller)}
        lab.folder.finish_part("label", name, labeller, facts, began)


def score(
    run: Run,
    scorer: Scorer,
    source: str | None = None,
    labeller: str | None = None,
    features: Sequence[int] = (),
    preview: bool = False,
) -> None:
    """Held-out scores of every label of one labeller (none for the last that labelled), in `features.db`, beside those of other scorers.

    `features` and `preview` are those of `label`.
    """
    lab, name = Lab(run, source), SCORERS.name_of(type(scorer))
    labelled = lab.folder.need("label")
    if labeller is not None and labeller not in lab.features.labellers():
        raise unknown("labeller of this dictionary", labeller, lab.features.labellers())
    judged: str = labeller or labelled.facts["labeller"]
    part = f"{name} of {judged}" if scorer.of_label else name
    if lab.folder.part_done("score", part, scorer):
        return
    began = time.monotonic()
    num = score_features(lab.features, scorer, judged, features or None, lab, preview)
    if not features and not preview:
        lab.folder.finish_part("score", part, scorer, {"num_scored": num, **spent(scorer)}, began)


def controls(run: Run, config: ControlsConfig, source: str | None = None) -> dict[str, Coverage]:
    """How many labels hold, and how many for random directions and for neurons at the same L0, in `controls/`.

    Gives what was found by name: `trained`, then the controls.
    """
    lab = Lab(run, source)
    lab.folder.need("score")
    if not lab.folder.done("controls", config):
        began = time.monotonic()
        found = measure_controls(lab, config, lab.folder.path / "controls")
        lab.folder.finish("controls", config, {name: to_dict(item) for name, item in found.items()}, began)
    return {name: from_dict(Coverage, item) for name, item in lab.folder.need("controls").facts.items()}


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
    layer, place = hook.split(".", 2)[1:] if hook.count(".") > 1 else ("", hook)
    short = {
        "hook_resid_post": "res",
        "hook_resid_pre": "res-pre",
        "hook_resid_mid": "res-mid",
        "hook_mlp_out": "mlp",
        "hook_attn_out": "att",
    }
    return f"{layer}-{short.get(place, re.sub('[._]', '-', place.replace('hook_', '')))}-{architecture}".lstrip("-")


def _described(registry: Registry[Any], item: object) -> dict[str, Any]:
    """A registered part as JSON: its name beside its fields."""
    return {"kind": registry.name_of(type(item)), **to_dict(item)}
