"""What a running service holds: the folder of runs, the dictionaries open for work, and a lock a model."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from saelab.describe import describe_run
from saelab.errors import Conflict, NotFound, SaelabError, unknown
from saelab.features.store import FeatureStore
from saelab.records import RunSummary, Source
from saelab.run import Run, Stages
from saelab_server.errors import Busy
from saelab_server.parts import Documents, Work, embed_text, open_documents
from saelab_server.settings import Settings

T = TypeVar("T")
OpenFeatures = Callable[[Run, str], FeatureStore]
OpenWork = Callable[[Run, str], Work]
OpenDocuments = Callable[[Run, str], Documents]
Embed = Callable[[str], np.ndarray]


class Kept(Generic[T]):
    """Things opened for dictionaries, the least recently used let go first; opened anew when a stage behind them was done anew.

    Arguments:
    - `make`: opens one for a dictionary of a run.
    - `limit`: how many are kept.
    """

    def __init__(self, make: Callable[[Run, str], T], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._items: OrderedDict[tuple[str, ...], T] = OrderedDict()
        self._lock = Lock()

    def open(self, run: Run, source: str, stages: tuple[str, ...]) -> T:
        """The one of a dictionary. Raises `NotFound` with the command for a stage that is not done."""
        key = (run.name, source, *(run.source(source).need(stage).finished for stage in stages))
        with self._lock:
            if key not in self._items:
                self._items[key] = self._make(run, source)
            self._items.move_to_end(key)
            while len(self._items) > self._limit:
                self._items.popitem(last=False)
            return self._items[key]


class State:
    """The machine behind the routes. Threads may share it.

    Arguments:
    - `settings`: where the runs are, and the limits.
    - `open_features`, `open_work`, `open_documents`: how a dictionary of a run is opened.
    - `embed`: the meaning of a text as a vector.
    """

    def __init__(
        self,
        settings: Settings,
        open_features: OpenFeatures,
        open_work: OpenWork,
        open_documents: OpenDocuments = open_documents,
        embed: Embed = embed_text,
    ) -> None:
        self.settings = settings
        self.embed = embed
        self._features = Kept(open_features, settings.max_stores)
        self._works = Kept(open_work, settings.max_labs)
        self._documents = Kept(open_documents, settings.max_labs)
        self._turns: defaultdict[str, Lock] = defaultdict(Lock)
        self._lock = Lock()

    def runs(self) -> list[RunSummary]:
        """All runs, by name. A run that cannot be read is listed with its problem."""
        return [_summary(run) for run in self._folders()]

    def run(self, name: str) -> RunSummary:
        """One run. Raises `NotFound` with close matches, `Corrupt` where it cannot be read."""
        folders = {run.name: run for run in self._folders()}
        if name not in folders:
            raise unknown("run", name, folders)
        return describe_run(folders[name])

    def source(self, model: str, name: str) -> Source:
        """The dictionary `model/name` in whichever run holds it. Raises `NotFound` with close matches, `Conflict` naming two runs."""
        runs = self.runs()
        sources = [source for run in runs for source in run.sources]
        found = [source for source in sources if (source.model, source.source) == (model, name)]
        if len(found) > 1:
            places = " and ".join(source.run for source in found)
            raise Conflict(f"{model}/{name} is in the runs {places}. Rename one of the dictionaries, or serve the runs from two folders.")
        if not found:
            raise _missing(model, name, sources, runs)
        return found[0]

    def models(self) -> dict[str, Source]:
        """The models that can answer, each with a dictionary through which it is opened: one whose features were collected."""
        sources = [source for run in self.runs() for source in run.sources if "collect" in source.stages]
        return {source.model: source for source in reversed(sources)}

    def folder(self, source: Source) -> Stages:
        """Where a dictionary lies."""
        return self._run(source).source(source.source)

    def features(self, source: Source) -> FeatureStore:
        """The stored features of a dictionary. Raises `NotFound` where they were not collected yet."""
        return self._features.open(self._run(source), source.source, ("collect",))

    def documents(self, source: Source) -> Documents:
        """The postings of a dictionary. Raises `NotFound` where there are none."""
        return self._documents.open(self._run(source), source.source, ("collect",))

    def work(self, source: Source) -> Work:
        """A dictionary with its model. Raises `NotFound` where its features were not collected yet."""
        return self._works.open(self._run(source), source.source, ("train", "collect"))

    @contextmanager
    def turn(self, model: str) -> Generator[None]:
        """The model to oneself. Raises `Busy` after waiting for `wait_seconds`."""
        with self._lock:
            turn = self._turns[model]
        if not turn.acquire(timeout=self.settings.wait_seconds):
            raise Busy(f"{model} has been at work for others for {self.settings.wait_seconds:g} s. Try again in a moment.")
        try:
            yield
        finally:
            turn.release()

    def _folders(self) -> list[Run]:
        root = self.settings.runs
        if not root.is_dir():
            raise NotFound(f"The folder of runs {root} is gone. Put it back, or start the service with another one.")
        return [Run(item) for item in sorted(root.iterdir()) if item.is_dir() and not item.name.startswith(".")]

    def _run(self, source: Source) -> Run:
        return Run(self.settings.runs / source.run)


def _summary(run: Run) -> RunSummary:
    try:
        return describe_run(run)
    except SaelabError as error:
        return RunSummary(name=run.name, model=None, stages=(), num_tokens=0, sources=(), problem=str(error))


def _missing(model: str, name: str, sources: list[Source], runs: list[RunSummary]) -> NotFound:
    models = {source.model for source in sources}
    if model in models:
        error = unknown(f"dictionary of {model}", name, (source.source for source in sources if source.model == model))
    else:
        error = unknown("model", model, models)
    broken = [run.name for run in runs if run.problem]
    return NotFound(f"{error} These runs could not be read: {', '.join(broken)}.") if broken else error
