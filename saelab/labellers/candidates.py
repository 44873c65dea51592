"""Candidate predicates for a feature: what its peaks, the tokens around them and the words of its windows have in common."""

import numpy as np
from jaxtyping import Int

from saelab.features.views import Windows
from saelab.features.vocabulary import SHAPES, Texts, affix_letters
from saelab.labellers.predicates import Affix, Bigram, DomainIs, NextIs, PositionBelow, PreviousIs, Rule, ShapeIs, TokenIs, Topic

_COMMON = 0.15
"""Share of the peaks that something must have in common to become a candidate."""
_SET_SIZES = (1, 2, 4, 8)
_TOPIC_SIZES = ((3, 1), (6, 1), (6, 2), (10, 2), (10, 3))
_POSITIONS = (4, 8, 16, 32)


def candidates(positives: Windows, negatives: Windows) -> list[Rule]:
    """Every predicate worth trying, simplest first."""
    texts, row = positives.texts, np.arange(len(positives))
    peak = positives.peak
    at = texts.folded[row, peak]
    found: list[Rule] = []
    for kind, numbers in ((TokenIs, at), (PreviousIs, texts.before[row, peak]), (NextIs, texts.after[row, peak])):
        words = _common(texts, numbers)
        found += [kind(any_of=tuple(words[:size])) for size in _SET_SIZES if size == 1 or len(words) > size // 2][: max(0, len(words))]
    found += _bigrams(texts, texts.before[row, peak], at)
    ids = texts.ids[row, peak]
    found += [ShapeIs(shape=name) for name in SHAPES if texts.vocabulary.shape(name)[ids].mean() > _COMMON]  # pyright: ignore[reportArgumentType]
    found += _affixes(texts, ids)
    positions = texts.start + peak
    found += [PositionBelow(below=below) for below in _POSITIONS if (positions < below).mean() > 2 * _COMMON]
    domains, counts = np.unique(np.array(texts.domains), return_counts=True)
    found += [DomainIs(domain=str(name)) for name, count in zip(domains, counts, strict=True) if count > 2 * _COMMON * len(row)]
    topic = _topic_words(positives, negatives)
    found += [Topic(any_of=tuple(topic[:size]), at_least=least) for size, least in _TOPIC_SIZES if len(topic) >= min(size, least + 1)]
    return list(dict.fromkeys(found))


def _common(texts: Texts, numbers: Int[np.ndarray, " window"]) -> list[str]:
    """The commonest forms, at most eight, each in at least two windows."""
    forms, counts = np.unique(numbers[numbers >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[: _SET_SIZES[-1]]
    return [texts.vocabulary.fold_texts[forms[i]] for i in order if counts[i] >= 2]


def _bigrams(texts: Texts, before: Int[np.ndarray, " window"], at: Int[np.ndarray, " window"]) -> list[Rule]:
    forms = texts.vocabulary.fold_texts
    pairs, counts = np.unique(np.stack([before, at], 1)[before >= 0], axis=0, return_counts=True)
    order = [i for i in np.argsort(-counts, kind="stable")[:2] if counts[i] > _COMMON * len(at)]
    return [Bigram(first=forms[pairs[i, 0]], second=forms[pairs[i, 1]]) for i in order]


def _affixes(texts: Texts, ids: Int[np.ndarray, " window"]) -> list[Rule]:
    """The commonest beginnings and endings that at least two different words share."""
    found: list[Rule] = []
    distinct = texts.vocabulary.folded[ids]
    for place, tables, lengths in (("prefix", texts.vocabulary.prefixes, (3, 4)), ("suffix", texts.vocabulary.suffixes, (1, 2, 3, 4))):
        for length in lengths:
            numbers = tables(length)[ids]
            known, counts = np.unique(numbers[numbers >= 0], return_counts=True)
            shared = [n for n in known[counts > 2 * _COMMON * len(ids)].tolist() if len(np.unique(distinct[numbers == n])) > 1]
            found += [Affix(place=place, letters=affix_letters(number)) for number in shared]  # pyright: ignore[reportArgumentType]
    return found


def _topic_words(positives: Windows, negatives: Windows) -> list[str]:
    """Words that more of the positive windows hold than of the negative ones, by log odds with a Dirichlet prior (Monroe et al. 2008)."""
    vocabulary = positives.texts.vocabulary
    inside, outside = _window_counts(positives), _window_counts(negatives)
    forms = np.array([form for form, count in inside.items() if count >= 3 and vocabulary.is_word[form]], np.int64)
    if not len(forms):
        return []
    yes = np.array([inside[int(form)] for form in forms]) + 0.5
    no = np.array([outside.get(int(form), 0) for form in forms]) + 0.5
    odds = np.log(yes / (len(positives) + 1 - yes)) - np.log(no / (len(negatives) + 1 - no))
    z = odds / np.sqrt(1 / yes + 1 / no)
    order = np.argsort(-z, kind="stable")[: max(size for size, _ in _TOPIC_SIZES)]
    return [vocabulary.fold_texts[forms[i]] for i in order if z[i] > 1]


def _window_counts(windows: Windows) -> dict[int, int]:
    """In how many windows each folded form occurs."""
    row, column = np.nonzero(windows.texts.ids >= 0)
    width = len(windows.texts.vocabulary.fold_texts) + 1
    pairs = np.unique(row * width + windows.texts.folded[row, column])
    forms, counts = np.unique(pairs % width, return_counts=True)
    return dict(zip(forms.tolist(), counts.tolist(), strict=True))
