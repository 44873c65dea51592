"""Rows with a label behind them: whether their document carries a concept, which is what SCAR learns from.

A document carries the concept where its domain is one of those named, and all of its tokens have its label, as the texts of Härle et al.
2024, https://arxiv.org/abs/2411.07122. Documents of a file get their domains from one of its columns: `--texts.domain-field`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saelab.activations.base import ActivationStore, Chunk
from saelab.activations.prefetch import sent
from saelab.activations.stream import SubjectStore
from saelab.corpus import Corpus
from saelab.errors import Invalid, unknown


def carrying(corpus: Corpus, concept: Sequence[str]) -> Bool[Tensor, " document"]:
    """Which documents are of the domains that carry a concept.

    Raises `NotFound` for a domain that the corpus does not have, `Invalid` where it has no others.
    """
    domains = [corpus.document(number).domain for number in range(corpus.num_documents)]
    for name in concept:
        if name not in domains:
            raise unknown("domain", name, {*domains})
    if not {*domains} - {*concept}:
        raise Invalid(f"All documents are {', '.join(concept)}: there is nothing to tell the concept from. Read others beside them.")
    return torch.tensor([domain in concept for domain in domains])


class LabelledStore(ActivationStore):
    """Another store with one more value in each row: 1 where the row's document carries a concept, -1 where it does not.

    Arguments:
    - `store`: the activations.
    - `corpus`: the windows that they come from.
    - `concept`: domains whose documents carry the concept.

    Raises what `carrying` raises.
    """

    def __init__(self, store: ActivationStore, corpus: Corpus, concept: Sequence[str]) -> None:
        self.store = store
        labels = 2 * carrying(corpus, concept).int() - 1
        self._labels = labels[torch.from_numpy(corpus.window_document).long()]
        self.hook, self.policy, self.max_norm = store.hook, store.policy, store.max_norm
        self.d_in, self.exact = store.d_in + 1, store.exact

    @property
    def max_norms(self) -> tuple[float | None, ...]:
        """Those of the store."""
        return self.store.max_norms

    def chunk_rows(self, held_out: bool | None = None) -> tuple[int, ...]:
        """Rows of each chunk."""
        return self.store.chunk_rows(held_out)

    def chunk(self, number: int, held_out: bool | None = None) -> Chunk:
        """One chunk, or its part of one kind. Raises what the store raises."""
        return self.labelled(self.store.chunk(number, held_out))

    def places(self, number: int, held_out: bool | None = None) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
        """Window and position of each row of a chunk."""
        return self.store.places(number, held_out)

    def described(self) -> dict[str, Any]:
        """What the store says of itself."""
        return self.store.described()

    def labelled(self, chunk: Chunk) -> Chunk:
        """A chunk of the store, with the labels."""
        labels = sent(self._labels[chunk.window], chunk.x.device).to(chunk.x.dtype)
        return Chunk(x=torch.cat([chunk.x, labels[:, None]], dim=1), window=chunk.window, position=chunk.position, hook=chunk.hook)


class LabelledStream(LabelledStore):
    """The same for a store that runs the subject, so that a `RingBuffer` can be filled from it.

    Arguments and errors are those of `LabelledStore`.
    """

    def __init__(self, store: SubjectStore, corpus: Corpus, concept: Sequence[str]) -> None:
        super().__init__(store, corpus, concept)
        self.dtype, self.device = store.dtype, store.device
        self._stream = store

    def begin(self, seed: int, portion: int) -> Callable[[], Chunk]:
        """One portion of an endless stream of training rows, begun; the result gives it. Raises what the store raises."""
        coming = self._stream.begin(seed, portion)
        return lambda: self.labelled(coming())
