"""A lab: a run opened for work on one of its dictionaries, every part on first use."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.base import ActivationStore
from saelab.activations.buffer import BufferConfig
from saelab.activations.disk import DiskStore
from saelab.activations.joined import JoinedStore
from saelab.activations.pooled import PooledStore
from saelab.activations.stream import SubjectStore
from saelab.activations.vectors import Vectors, VectorStore
from saelab.corpus import Corpus, TokenPolicy
from saelab.dictionary import Dictionary, load_dictionary
from saelab.errors import Invalid
from saelab.features.database import store_place
from saelab.features.store import FeatureStore
from saelab.provenance import Provenance
from saelab.records import FeatureActivation, TokenActivations
from saelab.run import Run, Stages, open_run
from saelab.subject import Subject, SubjectConfig
from saelab.toy import subject_folder
from saelab.values import from_dict
from saelab.weights import cache_folder


def load_subject(config: SubjectConfig) -> Subject:
    """The subject that a config names. `toy` is the tiny model of the toy world, made on first use."""
    if config.model != "toy":
        return Subject.load(config)
    folder = subject_folder(cache_folder() / "models" / "toy")
    return Subject.load(replace(config, model=str(folder), dtype="float32"))


def run_subject(run: Run) -> Subject:
    """The subject of a run, in the number format that the run began with."""
    manifest = run.need("read")
    return load_subject(from_dict(SubjectConfig, {**manifest.config["subject"], "dtype": manifest.facts["dtype"]}))


def stored(run: Run, hooks: Sequence[str], pooled: bool = False) -> ActivationStore:
    """The captured activations of some hooks: of several side by side, or one after another where they are pooled.

    Raises `NotFound` with the command that captures them, and `Invalid` for hooks that were not captured alike.
    """
    run.need("capture")
    stores = [DiskStore(run.activations(hook)) for hook in hooks]
    if len(stores) == 1:
        return stores[0]
    return PooledStore(stores) if pooled else JoinedStore(stores)


def widths_of(store: ActivationStore) -> tuple[int, ...]:
    """Width of the activations of each hook that stands in a row of the store."""
    if isinstance(store, JoinedStore) or (isinstance(store, SubjectStore) and not store.pooled):
        return store.widths
    return (store.d_in,)


def rows_of(subject: Subject, origin: Provenance, tokens: Int[Tensor, "window pos"]) -> Float[Tensor, "window pos width"]:
    """Activations on some tokens as a dictionary's training rows hold them: what it reads, and behind it its target, if any."""
    found = subject.activations(tokens, origin.row_hooks)
    return torch.cat([found[hook] for hook in origin.row_hooks], dim=-1)


class Lab:
    """One dictionary of a run with everything that belongs to it.

    Arguments:
    - `run`: the run, or its folder.
    - `source`: the dictionary's name; not needed where the run has only one.
    - `hook`: where a pooled dictionary is looked at; none for where its features were collected, or else its first hook.

    Raises `NotFound` with what there is.
    """

    def __init__(self, run: Run | Path | str, source: str | None = None, hook: str | None = None) -> None:
        self.run = run if isinstance(run, Run) else open_run(Path(run))
        self.folder: Stages = self.run.find_source(source)
        self.source = self.folder.path.name
        self._hook = hook

    @cached_property
    def vectors(self) -> Vectors | None:
        """The file that the dictionary was trained on, where that was no text."""
        found = self.folder.need("train").config.get("vectors")
        return None if found is None else from_dict(Vectors, found)

    @property
    def concept(self) -> tuple[str, ...]:
        """Domains whose documents carry the concept that the dictionary was taught; none but for SCAR."""
        return tuple(self.folder.need("train").config.get("concept", ()))

    @cached_property
    def subject(self) -> Subject:
        """The model under study, in the number format that the run began with. Raises `Invalid` for a dictionary of bare vectors."""
        self._need_text()
        return run_subject(self.run)

    @cached_property
    def corpus(self) -> Corpus:
        """The token windows. Raises `Invalid` for a dictionary of bare vectors."""
        self._need_text()
        self.run.need("read")
        return Corpus.open(self.run.corpus)

    def _need_text(self) -> None:
        if self.vectors is not None:
            raise Invalid(
                f"{self.source} was trained on the vectors of {self.vectors.file}, which come from no text: it has no subject, and so "
                "neither examples nor labels nor steering. `saelab evaluate` works, without next-token losses."
            )

    @property
    def policy(self) -> TokenPolicy:
        """Which tokens count."""
        return self.corpus.policy

    @cached_property
    def dictionary(self) -> Dictionary:
        """The dictionary, trained. Raises `NotFound` or `Invalid` for a hook that it cannot be looked at."""
        collected = self.folder.manifest("collect")
        self.folder.need("train")
        dictionary = load_dictionary(self.folder.path)
        hook = self._hook or (collected.config.get("hook") if collected else None)
        if hook is not None and dictionary.provenance is not None:
            dictionary.provenance = dictionary.provenance.at(hook)
        return dictionary.eval().requires_grad_(False)

    @property
    def origin(self) -> Provenance:
        """Where the dictionary's activations come from."""
        assert self.dictionary.provenance is not None, "a dictionary of a run knows its hook"
        return self.dictionary.provenance

    @property
    def hook(self) -> str:
        """Where the dictionary reads; the first of several hooks, of pooled ones that at which it is looked at."""
        return self.origin.hook

    def rows(self, tokens: Int[Tensor, "window pos"]) -> Float[Tensor, "window pos width"]:
        """Activations on some tokens as the dictionary's training rows hold them: what it reads, and behind it its target, if any."""
        return rows_of(self.subject, self.origin, tokens)

    @cached_property
    def store(self) -> ActivationStore:
        """The activations of the dictionary's hooks: those that it was trained on, captured, read from the subject, or from a file.

        A row holds what the dictionary reads and behind it its target, if any; of pooled hooks it is that of `hook` alone. Raises
        `Invalid` where they have another width than the dictionary reads.
        """
        store = self.store_of(self.origin.row_hooks)
        if store.d_in != self.dictionary.d_in + (self.dictionary.d_out if self.origin.target_hook else 0):
            raise Invalid(
                f"The dictionary {self.source} reads {self.dictionary.d_in} values at {self.hook}, where the run's subject has "
                f"{store.d_in}. It belongs to another model or hook."
            )
        return store

    def store_of(self, hooks: Sequence[str]) -> ActivationStore:
        """The activations of some of the hooks that the dictionary was trained on, side by side."""
        if self.vectors is not None:
            return VectorStore(self.vectors)
        stream = self.folder.need("train").config.get("stream")
        if stream is None:
            return stored(self.run, hooks)
        return SubjectStore(self.subject, self.corpus, from_dict(BufferConfig, stream), hooks, self.origin.limits())

    @cached_property
    def features(self) -> FeatureStore:
        """The collected features."""
        self.folder.need("collect")
        return FeatureStore(store_place(self.folder.path))

    def max_acts(self, features: Sequence[int]) -> dict[int, float]:
        """Largest activation of some features on the corpus. Raises `NotFound` for one that does not exist."""
        return {row.index: row.max for row in self.features.rows(features)}


def prompt_tokens(subject: Subject, policy: TokenPolicy, prompt: str, chat: bool = False) -> tuple[list[int], list[bool]]:
    """The token ids of a text, or of a user's message in the chat template up to where the reply begins, and which of them count.

    A beginning-of-sequence token is put before where windows have one, unless the template has written it. Raises `Invalid` for a chat with
    a subject that has no template.
    """
    if chat:
        ids, roles = subject.encode_chat([{"role": "user", "content": prompt}], reply=True)
    else:
        ids = subject.encode(prompt)
        roles = np.zeros(len(ids), np.uint8)
    if policy.prepend_bos and policy.bos_id is not None and ids[:1] != [policy.bos_id]:
        ids, roles = [policy.bos_id, *ids], np.append(np.uint8(0), roles)
    return ids, policy.counts(policy.document_kinds(np.array(ids, dtype=np.int64), roles)).tolist()


@torch.inference_mode()
def activations_on(lab: Lab, text: str, features: Sequence[int] | None = None, top: int = 20) -> TokenActivations:
    """Activations on a text: of some features, or of the `top` features that fire strongest on it.

    Positions and special tokens that the dictionary never read in training show 0 and are marked as not counted.
    """
    ids, counts = prompt_tokens(lab.subject, lab.policy, text)
    limit = min(lab.subject.max_context, 4096)
    if not 1 <= len(ids) <= limit:
        raise Invalid(f"The text has {len(ids)} tokens; it must have from 1 to {limit}.")
    x = lab.rows(torch.tensor([ids]))[0, :, : lab.dictionary.d_in].to(lab.dictionary.directions)
    ordinary = lab.dictionary.ordinary(x).tolist()
    counted = [counts and fine for counts, fine in zip(counts, ordinary, strict=True)]
    z = lab.dictionary.encode(x).dense() * torch.tensor(counted)[:, None]
    if features is None:
        strongest = z.abs().amax(0)
        features = [int(i) for i in strongest.topk(min(top, lab.dictionary.d_sae)).indices if strongest[i] > 0]
    labels = {row.index: row.label for row in lab.features.rows(features)}
    found = [
        FeatureActivation(index=i, label=labels[i], max=float(z[:, i].abs().max()), values=tuple(round(v, 4) for v in z[:, i].tolist()))
        for i in features
    ]
    return TokenActivations(tokens=tuple(lab.subject.strings(ids)), counted=tuple(counted), features=tuple(found))
