"""Labellers: from what a feature fires on to a short text about it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from saelab.errors import Unscored
from saelab.features.store import FeatureStore
from saelab.features.views import ExplainView, Views
from saelab.features.vocabulary import fold
from saelab.labellers.predicates import shown
from saelab.llm import Endpoint, price, spread
from saelab.progress import note, track
from saelab.records import Label
from saelab.registry import Registry
from saelab.values import to_json, value


@value
class Labeller(ABC):
    """Abstract: makes labels. A subclass is a frozen value, its own config, and registers itself in `LABELLERS`."""

    @abstractmethod
    def label(self, view: ExplainView) -> Label:
        """The label of a feature, from explain and select documents only. Raises `Unscored` with the reason if none can be made."""


LABELLERS: Registry[Labeller] = Registry("labeller", "saelab.labellers")
"""Every labeller by name."""


def label_features(store: FeatureStore, labeller: Labeller, indices: Sequence[int] | None = None, preview: bool = False) -> int:
    """Labels those features that this labeller has not labelled yet, each kept as soon as it is made.

    Arguments:
    - `store`: the feature store, read and written.
    - `labeller`: makes the labels. What one that asks an endpoint will cost is said before it begins.
    - `indices`: only these features; all without it.
    - `preview`: say what it will cost, and do nothing.

    Returns how many were labelled now. A feature for which no label can be made is kept with the reason and `found` false.
    """
    name = LABELLERS.name_of(type(labeller))
    waiting = store.unlabelled(name)
    if indices is not None:
        wanted = {store.id(index).index for index in indices}
        waiting = [index for index in waiting if index in wanted]
    if not waiting:
        return 0
    views = Views(store)

    def make(index: int) -> Label:
        try:
            return labeller.label(views.explain(index))
        except Unscored as reason:
            return Label(text=f"no label: {reason}", input_clause="", labeller=name, found=False, made_by=to_json(labeller))

    if cost := price(labeller, make, waiting):
        note(cost)
    if preview:
        return 0
    parallel = labeller.parallel if isinstance(labeller, Endpoint) else 1
    total = store.d_sae if indices is None else len(set(indices))
    made = spread(make, waiting, parallel)
    for index, label in track(made, stage="label", total=total, unit="features", done=total - len(waiting)):
        store.put_label(index, label)
    return len(waiting)


def need_windows(view: ExplainView, least: int) -> None:
    """Raises `Unscored` for a feature that fires in too few windows, or in every one, to be labelled."""
    if len(view.positives) < least:
        raise Unscored(f"fires in {len(view.positives)} windows of the explain documents, at least {least} are needed")
    if not len(view.negatives):
        raise Unscored("fires in every window of the pool of explain documents, so that nothing can be told apart")


def promoted_tokens(view: ExplainView, count: int) -> list[str]:
    """Tokens that the feature promotes, spellings of one word once; none where its logit lens is no more peaked than chance."""
    if view.kurtosis <= view.kurtosis_null:
        return []
    whole = [token for token in view.promoted if "\ufffd" not in token]  # half a character says nothing
    different = {fold(token): token for token in reversed(whole)}
    return [token for token in whole if different[fold(token)] == token][:count]


def output_clause(view: ExplainView, count: int) -> str:
    """What a feature promotes, in words; empty where that is not clear."""
    tokens = promoted_tokens(view, count)
    return "promotes " + ", ".join(shown(token) for token in tokens) if tokens else ""
