"""Windows as text in prompts: a few of them, one a line, with or without marks at tokens."""

from dataclasses import replace
from itertools import groupby

import numpy as np
from jaxtyping import Bool, Int

from saelab.features.views import ScoreView, Windows

STRONG = 0.3
"""Share of a window's strongest activation from which a token is marked."""


def taken(windows: Windows, rows: Int[np.ndarray, " some"]) -> Windows:
    """Some of the windows."""
    texts = windows.texts
    return replace(
        windows,
        texts=replace(
            texts, ids=texts.ids[rows], start=texts.start[rows], domains=tuple(texts.domains[row] for row in rows if texts.domains)
        ),
        counted=windows.counted[rows],
        values=windows.values[rows],
        document=windows.document[rows],
        segment=windows.segment[rows],
    )


def thinned(view: ScoreView, count: int, seed: int) -> ScoreView:
    """A view with at most so many windows of each side: the positives evenly over their strengths, the negatives evenly over their
    kinds.
    """
    random = np.random.default_rng((seed, view.feature))
    order = np.argsort(view.positives.strength, kind="stable")
    up = order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]
    kinds = np.array(view.kinds)
    shuffled = random.permutation(len(kinds))
    rank = np.zeros(len(kinds), np.int64)
    for kind in set(view.kinds):
        own = shuffled[kinds[shuffled] == kind]
        rank[own] = np.arange(len(own))
    down = shuffled[np.argsort(rank[shuffled], kind="stable")][:count]
    return replace(view, positives=taken(view.positives, up), negatives=taken(view.negatives, down), kinds=tuple(kinds[down].tolist()))


def strong(windows: Windows) -> Bool[np.ndarray, "window pos"]:
    """The tokens that are marked: counted ones at which the feature is nearly as strong as at the window's strongest."""
    return windows.counted & (np.abs(windows.values) >= STRONG * windows.strength[:, None]) & (windows.values != 0)


def lines(windows: Windows, marks: Bool[np.ndarray, "window pos"] | None = None, radius: int | None = None) -> list[str]:
    """Each window on one line, marked tokens (those next to each other together) between << and >>.

    Arguments:
    - `marks`: the tokens to mark; none for none.
    - `radius`: only so many tokens on either side of the strongest one; none for all.
    """
    strings, found = windows.texts.vocabulary.strings, list[str]()
    for row, ids in enumerate(windows.texts.ids):
        peak = int(windows.peak[row])
        low, high = (0, len(ids)) if radius is None else (max(0, peak - radius), peak + radius + 1)
        shown = [column for column in range(low, min(high, len(ids))) if ids[column] >= 0]
        text = ""
        for marked, columns in groupby(shown, key=lambda column: marks is not None and bool(marks[row, column])):
            piece = "".join(strings[ids[column]] for column in columns)
            bare = piece.lstrip(" ")
            text += f"{piece[: len(piece) - len(bare)]}<<{bare}>>" if marked else piece
        found.append(text.strip().replace("\n", "⏎"))
    return found
