"""What the segments of the pool mean: one matrix of vectors, made once.

It is kept beside the pool, in parts of its own: a killed call goes on where it was, and several may make different parts.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from saelab.features.store import FeatureStore
from saelab.progress import track

_PART = 256


def embed_pool(store: FeatureStore, embed: Callable[[Sequence[str]], Float[np.ndarray, "text d"]]) -> None:
    """Embeds those segments of the pool, left context included, that have no vector yet.

    Arguments:
    - `store`: the feature store, read and written.
    - `embed`: texts to vectors of norm 1.
    """
    members, done = store.array("pool.segments", np.int64), store.array_names()
    missing = [begin for begin in range(0, len(members), _PART) if _name(begin) not in done]
    if not missing:
        return
    size = {begin: len(members[begin : begin + _PART]) for begin in missing}
    finished = len(members) - sum(size.values())
    for begin in track(missing, stage="embed", total=len(members), unit="segments", done=finished, size=lambda begin: size[begin]):
        wanted = members[begin : begin + _PART].tolist()
        found = store.segments(wanted)
        words = ("".join(store.strings[token] for token in row if token >= 0) for row in found.tokens.tolist())
        texts = dict(zip(found.segment.tolist(), words, strict=True))
        store.put_array(_name(begin), embed([texts.get(segment, "") for segment in wanted]).astype(np.float16))


def pool_vectors(store: FeatureStore) -> Float[np.ndarray, "pool d"] | None:
    """The vector of each member of the pool; none where they were not all made."""
    size, done = len(store.array("pool.segments", np.int64)), store.array_names()
    names = [_name(begin) for begin in range(0, size, _PART)]
    if not names or not done.issuperset(names):
        return None
    return np.concatenate([store.array(name, np.float16) for name in names]).reshape(size, -1).astype(np.float32)


def copy_vectors(source: FeatureStore, target: FeatureStore) -> None:
    """Gives one store the vectors of another whose pool holds the same segments, if it has them."""
    pools = [store.array("pool.segments", np.int64) for store in (source, target)]
    if np.array_equal(pools[0], pools[1]):
        for name in source.array_names() - target.array_names():
            target.put_array(name, source.array(name, np.float16))


def _name(begin: int) -> str:
    return f"pool.vectors.{begin}"
