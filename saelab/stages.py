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
from typing import Any, TypeVar

from jaxtyping import Float
from torch import Tensor

from saelab.activations.capture import CaptureConfig
from saelab.activations.capture import capture as capture_activations
from saelab.activations.shuffle import steps_of
from saelab.activations.vectors import VECTORS
from saelab.analyses.quality import EvaluateConfig
from saelab.analyses.quality import evaluate as measure_quality
from saelab.corpus import Corpus, read_corpus
from saelab.devices import usable
from saelab.dictionary import DICTIONARIES, Dictionary, Trainable
from saelab.distributed.job import current
from saelab.distributed.ranks import ALONE, Ranks, ranks_of
from saelab.errors import Conflict, Invalid
from saelab.features.collect import CollectConfig, Collected, Part, Reader, collect_together, forget
from saelab.features.database import put_store_place
from saelab.features.geometry import LogitLens, encoder_rows, firing_neighbours, logit_lens, neighbours
from saelab.features.layout import lay_out
from saelab.features.write import Geometry, write_features
from saelab.feeds import Feed, Reading, Reads, TrainStage, check_hooks
from saelab.lab import Lab, load_subject, run_subject, widths_of
from saelab.policy import TokenKind, TokenPolicy
from saelab.progress import note
from saelab.readings import readings
from saelab.run import Run, Stages, differences, write_atomically
from saelab.subject import Subject, SubjectConfig
from saelab.sweep import Member, fit
from saelab.texts.base import TEXTS, TextSource
from saelab.training import Trainer
from saelab.values import from_dict, to_dict, to_json, value
from saelab.weights import slug

_Kind = TypeVar("_Kind", bound=Dictionary)
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
    described = {**to_dict(config), "texts": {"kind": TEXTS.name_of(type(texts)), **to_dict(texts)}}
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
    job, lacking = current(), replace(config, hooks=tuple(missing))
    stores = capture_activations(run_subject(run), Corpus.open(run.corpus), lacking, run.activations, job)
    rows = {**(done.facts["num_rows"] if done else {}), **{hook: store.num_rows for hook, store in stores.items()}}
    job.led(lambda: run.finish("capture", replace(config, hooks=tuple(hooks)), {"hooks": hooks, "num_rows": rows}, began))


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


def train(run: Run, config: TrainStage, sae: Any, shards: int = 1) -> None:  # noqa: ANN401 - the Config of any trainable dictionary
    """A dictionary trained on the activations of some hooks, in `dictionaries/<source>/`.

    All processes of a job train it together; so many of them divide its features. Raises `Invalid` where these do not fit.
    """
    _train(run, [(config, sae)], ranks_of(current(), shards, usable(config.device)))


def train_together(run: Run, jobs: Sequence[tuple[TrainStage, Any]]) -> None:
    """Dictionaries trained in one pass over the activations of each hook; each is what `train` would have made of it.

    The processes of a job share them out: each trains some, alone. Those that are done are left out. Raises `Conflict` before any work
    where one of them was made with another config.
    """
    job, count = current(), len(jobs)
    _train(run, jobs, ALONE, range(job.rank * count // job.size, (job.rank + 1) * count // job.size))
    job.meet()


def _train(run: Run, jobs: Sequence[tuple[TrainStage, Any]], ranks: Ranks, mine: range = range(1)) -> None:
    names = [config.source for config, _ in jobs]
    for config, sae in jobs:
        check_hooks(config, architecture_of(sae))
        if names.count(config.source) > 1:
            raise Invalid(f"Two dictionaries would be named {config.source!r}. Each needs a name of its own.")
    done = [source_folder(run, config.source).done("train", training_config(config, sae)) for config, sae in jobs]
    left = [jobs[number] for number in mine if not done[number]]
    feeds = cache(lambda reads: Feed(run, reads))
    fit([_member(run, config, sae, feeds(Reads.of(config)), ranks) for config, sae in left])


def training_config(config: Reading, sae: object) -> dict[str, Any]:
    """What the manifest of a training says of its config."""
    return {**to_dict(config), "sae": {"kind": architecture_of(sae, Dictionary).architecture, **to_dict(sae)}}


def _member(run: Run, config: TrainStage, sae: Any, feed: Feed, ranks: Ranks) -> Member:  # noqa: ANN401 - as in train
    """A training, ready to begin or to go on."""
    began, settings = time.monotonic(), config.train
    if config.epochs is not None:
        settings = replace(settings, steps=steps_of(feed.store, settings.batch_size, config.epochs))
    if settings.precision == "auto":
        settings = replace(settings, precision="bf16" if feed.dtype == "bfloat16" else "fp32")
    kind, folder = architecture_of(sae), run.source(config.source)
    dictionary = ranks.hold(lambda: kind.for_widths(widths_of(feed.store), sae), usable(config.device))
    dictionary.locate(feed.provenance())
    if config.stream is not None and ranks.size > 1:
        raise Invalid("Several processes cannot train straight from the model. Leave out --stream: capture is shared out among them too.")
    evaluation = feed.evaluation(settings) if ranks.shards == 1 else None  # no process has the whole dictionary
    trainer = Trainer(dictionary, settings, folder.path, evaluation, ranks)

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
    batches = feed.batches(settings.batch_size, config.order, usable(config.device))
    return Member(trainer, ranks.part(batches), reads=described, finished=finished)


def evaluate(run: Run, config: EvaluateConfig, source: str | None = None) -> None:
    """The dictionary's quality on held-out documents, in `quality.json`; of a pooled one at its first hook, wherever it was collected."""
    folder = run.find_source(source)
    if folder.done("evaluate", config):
        return
    lab = Lab(run, source, folder.need("train").facts["hook"])
    began = time.monotonic()
    quality = measure_quality(lab, config)
    write_atomically(lab.folder.path / "quality.json", to_json(quality))
    lab.folder.finish("evaluate", config, {"fvu": quality.fvu.value, "l0": quality.l0.value, **_models(lab)}, began)


def collect(
    run: Run,
    config: CollectConfig,
    sources: str | Sequence[str] | None = None,
    *,
    hook: str | None = None,
    store: str | None = None,
    part: Part | None = None,
) -> None:
    """Statistics, examples and geometry of every feature; of several dictionaries in one pass.

    They come into `features.db`, or into the PostgreSQL database of the URL `store`. A pooled dictionary is looked at where `hook` says, or
    else at its first hook. A `part` collects its share of the activations alone, for the pass that later puts all parts together; the
    processes of a job collect a part each, and the one that leads puts them together.

    Raises `NotFound` or `Invalid` for a hook that is none of the dictionary's, `Invalid` for a part in a job.
    """
    names = [sources] if sources is None or isinstance(sources, str) else list(dict.fromkeys(sources)) or [None]
    labs = [lab for lab in (Lab(run, name, hook) for name in names) if not lab.folder.done("collect", _collecting(lab, config))]
    if not labs:
        return
    began, job = time.monotonic(), current()
    if job.size > 1 and part is not None:
        raise Invalid(f"torchrun started {job.size} processes, which collect a part each. Leave --part and --parts out.")
    readers = [Reader(lab.dictionary, chunks, lab.folder.path) for lab, chunks in zip(labs, readings(labs), strict=True)]
    share = part if job.size == 1 else Part(number=job.rank, of=job.size)
    found = collect_together(readers, labs[0].corpus, config, share)
    job.meet()
    if part is None:
        job.led(lambda: _put(labs, config, store, found if job.size == 1 else collect_together(readers, labs[0].corpus, config), began))


def _put(labs: Sequence[Lab], config: CollectConfig, store: str | None, found: Sequence[Collected], began: float) -> None:
    """Writes what was collected of some dictionaries, each where it belongs."""
    for lab, collected in zip(labs, found, strict=True):
        lab.dictionary.cpu()
        where = put_store_place(lab.folder.path, store, f"{lab.run.name}/{lab.source}")
        write_features(where, lab.subject.name, lab.source, collected, lab.subject.vocabulary, _geometry(lab, collected))
        forget(lab.folder.path)
        facts = {"num_tokens": collected.statistics.num_tokens, "num_features": lab.dictionary.d_sae, **_models(lab)}
        lab.folder.finish("collect", _collecting(lab, config), facts, began)


def _collecting(lab: Lab, config: CollectConfig) -> dict[str, Any]:
    """What the manifest of a pass says of its config: of a pooled dictionary also where it was looked at."""
    return {**to_dict(config), "hook": lab.hook} if lab.origin.pooled else to_dict(config)


def _geometry(lab: Lab, collected: Collected) -> Geometry:
    """How the features lie to each other: by their directions, by the segments of the pool in which they fire, on a map."""
    directions, encoder, pool = lab.dictionary.directions, encoder_rows(lab.dictionary), collected.pool
    found = {"decoder": neighbours(directions), "firing": firing_neighbours(pool.feature, pool.member, collected.d_sae)}
    if encoder is not None:
        found["encoder"] = neighbours(encoder)
    lens = _lens(lab, directions[:, -lab.dictionary.widths[-1] :])  # of several hooks the last, nearest to the logits
    return Geometry(found, lens, lay_out(directions, found["decoder"]))


def _models(lab: Lab) -> dict[str, str]:
    """The subject, and the one that the dictionary was trained on: a base model's dictionary may be used on a fine-tuned one."""
    assert lab.dictionary.provenance is not None, "a dictionary of a run knows its model"
    return {"model": lab.origin.model if lab.vectors else lab.subject.name, "trained_on": lab.origin.model}


def _lens(lab: Lab, directions: Float[Tensor, "feature d"]) -> LogitLens | None:
    """What the features promote; nothing where their directions are not in the residual stream."""
    return logit_lens(directions, lab.subject.unembed) if directions.shape[1] == lab.subject.d_model else None


def architecture_of(config: object, among: type[_Kind] = Trainable) -> type[_Kind]:
    """The dictionary class whose config this is."""
    for name in DICTIONARIES:
        kind = DICTIONARIES[name]
        if issubclass(kind, among) and type(config) is kind.Config:
            return kind
    raise AssertionError(f"{type(config).__name__} is no dictionary's config")


def usual_source(config: Reading, kind: type[Dictionary]) -> str:
    """The name of a dictionary that was given none."""
    return source_name(config.hook, f"pooled-{kind.architecture}" if config.pooled else kind.architecture)


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
