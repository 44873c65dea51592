"""Scorers: a number for a label, measured on documents that the labeller never saw, beside what labels of other features would get."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from saelab.embeddings import Embedder, embedder
from saelab.errors import Invalid, Unscored
from saelab.features.store import FeatureStore
from saelab.features.views import ScoreView, Views
from saelab.lab import Lab
from saelab.llm import Endpoint, price, spread
from saelab.progress import note, track
from saelab.records import Label, Score
from saelab.registry import Registry
from saelab.scorers.metrics import document_weights, interval
from saelab.values import to_json, value

_PROTOTYPES = 64
"""Features whose prototypes stand in for those of others."""


class Bench:
    """What a scorer may use beside a label and score windows: models, and what features look like on average. No documents.

    Arguments:
    - `views`: the views of the store that is scored.
    - `lab`: gives the subject and the dictionary, to the scorers that need them.
    - `embedder`: makes vectors of texts; none for MiniLM where it is installed, else hashed words.
    """

    def __init__(self, views: Views, lab: Lab | None = None, embedder: Embedder | None = None) -> None:
        self._views = views
        self._lab = lab
        self._embedder = embedder
        self.prototype = lru_cache(maxsize=4096)(self._prototype)

    @property
    def lab(self) -> Lab:
        """The run's subject and dictionary. Raises `Invalid` where only a feature store was opened."""
        if self._lab is None:
            raise Invalid("This score needs the subject. Give score_features the Lab, as `saelab score` does.")
        return self._lab

    @cached_property
    def embedder(self) -> Embedder:
        """Makes vectors of texts."""
        return self._embedder or embedder()

    def _prototype(self, feature: int) -> Float[np.ndarray, " d"] | None:
        """Mean of the embeddings of its explain windows minus that of windows where it is silent; none where it has too few."""
        view = self._views.explain(feature)
        if len(view.positives) < 2 or not len(view.negatives):
            return None
        found = self.embedder.texts(view.positives.words).mean(0) - self.embedder.texts(view.negatives.words).mean(0)
        return found / max(1e-12, float(np.linalg.norm(found)))

    def other_prototypes(self, feature: int, count: int) -> list[Float[np.ndarray, " d"]]:
        """Prototypes of up to `count` other features with like densities, out of a fixed set spread over all densities."""
        density = self._density
        near = self._spread[np.argsort(np.abs(density[self._spread] - density[feature]), kind="stable")]
        found = [self.prototype(int(other)) for other in near[: count + 1] if other != feature]
        return [item for item in found if item is not None][:count]

    @cached_property
    def _density(self) -> Float[np.ndarray, " d_sae"]:
        return np.log(self._views.store.column("density") + 1e-12)

    @cached_property
    def _spread(self) -> np.ndarray:
        alive = np.flatnonzero(self._views.store.column("density") > 0)
        order = alive[np.argsort(self._density[alive], kind="stable")]
        return order[np.unique(np.linspace(0, max(0, len(order) - 1), _PROTOTYPES).round().astype(int))] if len(order) else order


@value
class Scorer(ABC):
    """Abstract: scores labels. A subclass is a frozen value, its own config, and registers itself in `SCORERS`."""

    of_label: ClassVar[bool] = True
    """False for a scorer of the feature itself, which gets no label."""
    shown: ClassVar[bool] = False
    """Whether its headline is what the table of features shows and sorts by."""

    nulls: int = 12
    """Labels of other features, matched on density, that make the null."""
    min_nulls: int = 10
    """Labels of other features without which there is no null and no lift."""
    draws: int = 200
    """Bootstrap draws of documents behind each interval."""
    enough: int = 10
    """Windows with the feature below which the score is flagged as insufficient."""
    seed: int = 0
    """Seed of all that is drawn."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """What the headline number is, such as `auroc`."""

    @abstractmethod
    def score(self, label: Label | None, view: ScoreView, nulls: Sequence[Label], bench: Bench) -> tuple[Score, ...]:
        """The scores of a label, the headline first. Raises `Unscored` with the reason if there can be none.

        Arguments:
        - `label`: the label; none for a scorer of the feature itself.
        - `view`: score documents only.
        - `nulls`: labels of other features.
        - `bench`: the models at hand.
        """

    def made(self, metric: str, number: float, view: ScoreView, **facts: Any) -> Score:  # noqa: ANN401 - the fields of a score
        """A score by this scorer: its name, seed and config, and whether there are enough windows, beside the facts given."""
        few = len(view.positives) < self.enough or len(view.negatives) < self.enough or len(np.unique(view.positives.document)) < 2
        common: dict[str, Any] = {
            "insufficient": few,
            "seed": self.seed,
            "made_by": _config(self),
            "n": len(view.positives) + len(view.negatives),
            "negatives": tuple(sorted(set(view.kinds))),
        }
        return Score(scorer=SCORERS.name_of(type(self)), metric=metric, value=number, **{**common, **facts})

    def drawn(self, metric: str, values: Float[np.ndarray, " draw"], view: ScoreView, **facts: Any) -> Score:  # noqa: ANN401 - as in made
        """A score from its value (first) and those of the bootstrap draws. Raises `Unscored` where it has no value."""
        if not np.isfinite(values[0]):
            raise Unscored(f"{metric} has no value: there is nothing to count")
        low, high = interval(values[1:])
        return self.made(metric, float(values[0]), view, **{"low": low, "high": high, **facts})

    def lifted(self, metric: str, values: Float[np.ndarray, "draw label"], view: ScoreView, **facts: Any) -> Score:  # noqa: ANN401
        """A score beside the null that the other columns make, and its lift over it."""
        own, null = values[:, 0], values[:, 1:]
        null = null[:, np.isfinite(null[0])]
        if not null.shape[1]:
            return self.drawn(metric, own, view, **facts)
        lift = own - null.mean(1)
        low, high = interval(lift[1:])
        lifted = {"null": float(null[0].mean()), "lift": float(lift[0]), "lift_low": low, "lift_high": high}
        return self.drawn(metric, own, view, **facts, **lifted)

    def document_draws(self, documents: np.ndarray, feature: int) -> Float[np.ndarray, "draw window"]:
        """How often each window is taken: once each, then as in the bootstrap draws of whole documents."""
        drawn = document_weights(documents, self.draws, np.random.default_rng((self.seed, feature)))
        return np.concatenate([np.ones((1, len(documents))), drawn])

    def need_windows(self, view: ScoreView) -> None:
        """Raises `Unscored` for a feature that fires in fewer than two score windows, or is silent in fewer."""
        if len(view.positives) < 2 or len(view.negatives) < 2:
            raise Unscored(f"only {len(view.positives)} windows of the score documents hold the feature, at least 2 are needed")


SCORERS: Registry[Scorer] = Registry("scorer", "saelab.scorers")
"""Every scorer by name."""


@lru_cache(maxsize=256)
def _config(scorer: Scorer) -> str:
    return to_json(scorer)


def score_features(
    store: FeatureStore,
    scorer: Scorer,
    labeller: str = "rules",
    indices: Sequence[int] | None = None,
    lab: Lab | None = None,
    preview: bool = False,
) -> int:
    """Scores what this scorer has not scored yet, each kept as soon as it is made; a failure is kept with its reason.

    Arguments:
    - `store`: the feature store, read and written.
    - `scorer`: makes the scores.
    - `labeller`: whose labels are scored; without meaning for a scorer of the features themselves.
    - `indices`: only these features; all (with a label) without it.
    - `lab`: where the subject is needed.
    - `preview`: say what it will cost, where it costs something, and do nothing.

    Returns how many were scored now.
    """
    name, labels = SCORERS.name_of(type(scorer)), store.labels(labeller) if scorer.of_label else {}
    scored = set(range(store.d_sae)) if indices is None else {store.id(index).index for index in indices}
    waiting = [index for index in store.unscored(labeller if scorer.of_label else "", name) if index in scored]
    if not waiting:
        return 0
    nulls, views = Nulls(labels, store.column("density")), Views(store, scorer.seed)
    bench = Bench(views, lab)

    def make(index: int) -> tuple[Score, ...]:
        label = labels.get(index)
        try:
            if label is not None and not label.found:
                raise Unscored("the labeller found no rule to score")
            return scorer.score(label, views.score(index), nulls.of(index, scorer.nulls) if label else [], bench)
        except Unscored as reason:
            return (Score(scorer=name, metric=scorer.metric, value=None, failed=str(reason), made_by=to_json(scorer)),)

    if cost := price(scorer, make, waiting):
        note(cost)
    if preview:
        return 0
    parallel = scorer.parallel if isinstance(scorer, Endpoint) else 1
    total = len(scored & set(labels)) if scorer.of_label else len(scored)
    made = spread(make, waiting, parallel)
    for index, scores in track(made, stage="score", total=total, unit="features", done=total - len(waiting)):
        store.put_scores(index, labels.get(index), scores, shown=scorer.shown)
    return len(waiting)


class Nulls:
    """Labels of other features that stand in for a label of one: those that state a rule, with the closest densities.

    Arguments:
    - `labels`: every label by feature.
    - `density`: density of every feature.
    """

    def __init__(self, labels: dict[int, Label], density: np.ndarray) -> None:
        found = np.array([index for index, label in sorted(labels.items()) if label.found], np.int64)
        self._labels = labels
        self._density = density
        self._order = found[np.argsort(density[found], kind="stable")]
        self._sorted = density[self._order]

    def of(self, index: int, count: int) -> list[Label]:
        """Up to `count` labels, the closest density first; never the feature's own, nor one that says the same."""
        own = self._labels[index].text
        place = int(np.searchsorted(self._sorted, self._density[index]))
        near = self._order[max(0, place - 2 * count) : place + 2 * count]
        near = near[np.argsort(np.abs(np.log(self._density[near] + 1e-12) - np.log(self._density[index] + 1e-12)), kind="stable")]
        others = [self._labels[int(other)] for other in near if other != index and self._labels[int(other)].text != own]
        return others[:count]
