"""Search by meaning: labels as vectors in the feature store, and features found by what a text means."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tyro.conf import Positional

from saelab.console import OUT
from saelab.embeddings import MiniLM
from saelab.features.label_store import LabelStore
from saelab.lab import Lab
from saelab.progress import track
from saelab.run import open_run
from saelab.values import value

Embed = Callable[[Sequence[str]], Float[np.ndarray, "text d"]]
"""Texts to vectors of norm 1."""
_BATCH = 512


def embed_labels(store: LabelStore, embed: Embed) -> int:
    """Embeds every shown label that states a rule and has no vector yet; how many. A killed call goes on where it was."""
    texts = store.without_meaning()
    features = list(texts)
    for begin in track(range(0, len(features), _BATCH), stage="embed", total=len(features), unit="labels", size=_BATCH):
        part = {feature: texts[feature] for feature in features[begin : begin + _BATCH]}
        store.put_meanings(part, embed(list(part.values())))
    return len(features)


@value
class EmbedLabels:
    """Embeds labels, so that features can be searched by meaning. Needs the extra `embeddings`."""

    run: Positional[Path]
    """The run's folder; its features have been labelled."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""

    def __call__(self) -> None:
        """Does it."""
        store = Lab(open_run(self.run), self.source).features
        OUT.print(f"{embed_labels(store, MiniLM().texts):,} labels embedded")
