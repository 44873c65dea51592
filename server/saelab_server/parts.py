"""What the service asks of an open dictionary, and the only two functions that open one.

The library's parts are imported inside those functions: listing runs must not wait for torch, and browsing features not for a model.
Tests give doubles of both.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from saelab.records import Completion, Feature, FeaturePage, FeatureRow, Neighbour, SteerRequest, SteerToken, TokenActivations
from saelab.run import Run

SortColumn = Literal["index", "density", "max", "mean", "score", "lift"]
"""Columns by which the feature table can be sorted."""


class Features(Protocol):
    """What is stored about the features of one dictionary."""

    def page(
        self,
        *,
        sort: SortColumn,
        descending: bool,
        words: str | None,
        dead: bool | None,
        labelled: bool | None,
        min_density: float | None,
        max_density: float | None,
        min_lift: float | None,
        cursor: str | None,
        limit: int,
    ) -> FeaturePage:
        """A page of the table. Raises `Invalid` for a cursor that this table did not give."""
        ...

    def feature(self, index: int) -> Feature:
        """All about one feature. Raises `NotFound` for an index out of range."""
        ...

    def neighbours(self, index: int) -> tuple[Neighbour, ...]:
        """Features with the closest directions. Raises `NotFound` for an index out of range."""
        ...

    def search(self, words: str, limit: int) -> list[FeatureRow]:
        """Features whose label or tokens hold the words, best first."""
        ...


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


def open_features(run: Run, source: str) -> Features:
    """The stored features of a dictionary. Raises `NotFound` with the command to run where they were not collected yet."""
    from saelab.features.store import FeatureStore

    folder = run.find_source(source)
    folder.need("collect")
    return FeatureStore(f"sqlite:///{folder.path / 'features.db'}")


def open_work(run: Run, source: str) -> Work:
    """A dictionary with its model, loaded on first use."""
    from saelab_server.work import LabWork

    return LabWork(run, source)
