"""Evidence for rules: which words stand at the tokens where a feature fires, before and after them, and in its windows, against windows
where it is silent.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from saelab.features.excerpts import strong
from saelab.features.views import Windows

COMMON = 0.1
"""Share of silent windows that hold a word of no topic: it says how the text is written, not what it is about."""


@dataclass(frozen=True)
class Evidence:
    """Folded forms by what they tell of a feature, best first."""

    at: Int[np.ndarray, " form"]
    """At tokens where it is strong."""
    before: Int[np.ndarray, " form"]
    """Right before its strongest tokens."""
    after: Int[np.ndarray, " form"]
    """Right after its strongest tokens."""
    topic: Int[np.ndarray, " form"]
    """Anywhere in its windows, words alone."""
    firing: Bool[np.ndarray, " form"]
    """Forms at which it fires at all."""
    silent: Bool[np.ndarray, " form"]
    """Forms that occur where it is silent, and at which it never fires."""


def evidence(positives: Windows, negatives: Windows) -> Evidence:
    """What the windows tell of a feature. A form counts once a window."""
    texts, row = positives.texts, np.arange(len(positives))
    num = len(texts.vocabulary.fold_texts)
    inside, outside = (_windows_with(part.texts.folded, part.counted, num) for part in (positives, negatives))
    at = _windows_with(texts.folded, strong(positives), num)
    peak = np.zeros(positives.counted.shape, np.bool_)
    peak[row, positives.peak] = True
    before, after = (_windows_with(numbers, peak & (numbers >= 0), num) for numbers in (texts.before, texts.after))
    quiet_before, quiet_after = (
        _windows_with(part, negatives.counted & (part >= 0), num) for part in (negatives.texts.before, negatives.texts.after)
    )
    sizes = (len(positives), len(negatives))
    is_topic = texts.vocabulary.is_word & (outside <= COMMON * sizes[1])
    fires = _occur(texts.folded, positives.counted & (positives.values != 0), num)
    quiet = _occur(texts.folded, positives.counted & (positives.values == 0), num) | (outside > 0)
    return Evidence(
        at=_telling(at, outside, sizes),
        before=_telling(before, quiet_before, sizes),
        after=_telling(after, quiet_after, sizes),
        topic=_telling(np.where(is_topic, inside, 0), outside, sizes, least=3),
        firing=fires,
        silent=quiet & ~fires,
    )


def _telling(
    inside: Int[np.ndarray, " form"], outside: Int[np.ndarray, " form"], sizes: tuple[int, int], least: int = 2
) -> Int[np.ndarray, " some"]:
    """Forms that more of the positive windows hold than of the negative ones, by how surely: the log odds ratio over its standard error,
    with half a window added to each count (Monroe et al. 2008, "Fightin' words", with a flat prior).
    """
    forms = np.flatnonzero(inside >= least)
    yes, no = inside[forms] + 0.5, outside[forms] + 0.5
    odds = np.log(yes / (sizes[0] + 1 - yes)) - np.log(no / np.maximum(0.5, sizes[1] + 1 - no))
    sureness: Float[np.ndarray, " form"] = odds / np.sqrt(1 / yes + 1 / no)
    order = np.argsort(-sureness, kind="stable")
    return forms[order[sureness[order] > 1]]


def _windows_with(folded: Int[np.ndarray, "window pos"], where: Bool[np.ndarray, "window pos"], num: int) -> Int[np.ndarray, " form"]:
    """In how many windows each form occurs at the given tokens."""
    row, column = np.nonzero(where & (folded >= 0))
    pairs = np.unique(row.astype(np.int64) * num + folded[row, column])
    return np.bincount(pairs % num, minlength=num)


def _occur(folded: Int[np.ndarray, "window pos"], where: Bool[np.ndarray, "window pos"], num: int) -> Bool[np.ndarray, " form"]:
    found = np.zeros(num, np.bool_)
    found[folded[where & (folded >= 0)]] = True
    return found
