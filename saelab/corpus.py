"""The corpus: token windows that know their document, their place in it, and which split the document belongs to.

Windows never cross documents. Splits are made by document, from a hash of its key, so that adding text never moves a document:

- `held_out`: 10 % of the documents, never trained on; the quality of a dictionary is measured there.
- `split`: explain 50 %, select 15 %, score 35 %, from a second hash; labels are made from one and scored on another.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from saelab.values import value

Split = Literal["explain", "select", "score"]


@value
class TokenPolicy:
    """How text becomes windows, and which of their positions count. Stored with every artifact made from them."""

    context: int = 128
    """Tokens in a window, at most."""
    prepend_bos: bool = False
    """Begin every window with the subject's beginning-of-sequence token."""
    skip_first: int = 1
    """Positions at the start of every window that do not count. The first is an attention sink: its norm is a hundred times the others'."""
    special_ids: tuple[int, ...] = ()
    """Token ids that do not count: the subject's special tokens."""


@dataclass(frozen=True)
class DocumentInfo:
    """One document of the corpus."""

    key: str
    """Unique name, such as `sotu/1861-12-03`."""
    domain: str
    """Kind of text, such as `speech`."""
    split: Split
    """Which split it belongs to for labels and their scores."""
    held_out: bool
    """Whether it is kept from training."""


class Corpus:
    """Token windows on disk, memory-mapped. Made by `read_corpus`, opened by `Corpus.open`."""

    policy: TokenPolicy
    """How the windows were made."""
    num_tokens: int
    """Tokens in all documents."""
    num_documents: int
    """Documents."""
    window_document: Int[np.ndarray, " window"]
    """Number of each window's document."""
    window_start: Int[np.ndarray, " window"]
    """Position in the document of each window's first text token."""
    window_length: Int[np.ndarray, " window"]
    """Tokens in each window, the beginning-of-sequence token included."""
    window_held_out: np.ndarray
    """Whether each window's document is kept from training (bool)."""

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """The corpus of a run. Raises `Corrupt` naming the file that is wrong."""
        raise NotImplementedError

    def document(self, number: int) -> DocumentInfo:
        """One document's facts."""
        raise NotImplementedError

    def document_tokens(self, number: int) -> Int[np.ndarray, " pos"]:
        """All tokens of a document."""
        raise NotImplementedError

    def window_tokens(self, number: int) -> Int[np.ndarray, " pos"]:
        """The tokens of a window, the beginning-of-sequence token included."""
        raise NotImplementedError

    def counts(self, number: int) -> np.ndarray:
        """Which positions of a window count (bool): not the first ones, not special tokens."""
        raise NotImplementedError
