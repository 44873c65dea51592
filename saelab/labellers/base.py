"""Labellers: from what a feature fires on to a short text about it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from saelab.errors import Unscored
from saelab.features.store import FeatureStore
from saelab.features.views import ExplainView, Views
from saelab.progress import track
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


def label_features(store: FeatureStore, labeller: Labeller, indices: Sequence[int] | None = None) -> int:
    """Labels those features that this labeller has not labelled yet, each kept as soon as it is made.

    Arguments:
    - `store`: the feature store, read and written.
    - `labeller`: makes the labels.
    - `indices`: only these features; all without it.

    Returns how many were labelled now. A feature for which no label can be made is kept with the reason and `found` false.
    """
    name = LABELLERS.name_of(type(labeller))
    waiting = store.unlabelled(name)
    if indices is not None:
        wanted = {store.id(index).index for index in indices}
        waiting = [index for index in waiting if index in wanted]
    views = Views(store) if waiting else None
    total = store.d_sae if indices is None else len(set(indices))
    for index in track(waiting, stage="label", total=total, unit="features", done=total - len(waiting)):
        assert views is not None
        try:
            label = labeller.label(views.explain(index))
        except Unscored as reason:
            label = Label(text=f"no label: {reason}", input_clause="", labeller=name, found=False, made_by=to_json(labeller))
        store.put_label(index, label)
    return len(waiting)
