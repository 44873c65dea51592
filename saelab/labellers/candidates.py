"""Candidate predicates for a feature: what the evidence suggests, simplest first."""

import numpy as np
from jaxtyping import Int

from saelab.features.views import Windows
from saelab.features.vocabulary import SHAPES, Texts, affix_letters
from saelab.labellers.evidence import Evidence, evidence
from saelab.labellers.predicates import Affix, Bigram, DomainIs, NextIs, PositionBelow, PreviousIs, Rule, ShapeIs, TokenIs, Topic

_COMMON = 0.15
"""Share of the peaks that something must have in common to become a candidate."""
_SET_SIZES = (1, 2, 4, 8, 16)
_TOPIC_SIZES = ((3, 1), (6, 1), (6, 2), (10, 2), (10, 3))
_POSITIONS = (4, 8, 16, 32)
_AFFIX_WORDS = 3
"""Different words of a feature that must share a beginning or an ending."""


def candidates(positives: Windows, negatives: Windows) -> list[Rule]:
    """Every predicate worth trying, simplest first."""
    texts, row = positives.texts, np.arange(len(positives))
    known, peak = evidence(positives, negatives), positives.peak
    at = texts.folded[row, peak]
    found: list[Rule] = []
    for kind, forms, peaks in (
        (TokenIs, known.at, at),
        (PreviousIs, known.before, texts.before[row, peak]),
        (NextIs, known.after, texts.after[row, peak]),
    ):
        for words in (_named(texts, forms), _common(texts, peaks)):
            found += [kind(any_of=tuple(words[:size])) for size in _SET_SIZES if words and (size == 1 or len(words) > size // 2)]
    found += _bigrams(texts, texts.before[row, peak], at)
    ids = texts.ids[row, peak]
    found += [ShapeIs(shape=name) for name in SHAPES if texts.vocabulary.shape(name)[ids].mean() > _COMMON]  # pyright: ignore[reportArgumentType]
    found += _affixes(texts, ids, known)
    positions = texts.start + peak
    found += [PositionBelow(below=below) for below in _POSITIONS if (positions < below).mean() > 2 * _COMMON]
    domains, counts = np.unique(np.array(texts.domains), return_counts=True)
    found += [DomainIs(domain=str(name)) for name, count in zip(domains, counts, strict=True) if count > 2 * _COMMON * len(row)]
    topic = _named(texts, known.topic)
    found += [Topic(any_of=tuple(topic[:size]), at_least=least) for size, least in _TOPIC_SIZES if len(topic) >= min(size, least + 1)]
    return list(dict.fromkeys(found))


def _named(texts: Texts, forms: Int[np.ndarray, " some"]) -> list[str]:
    """The first forms as text, as many as the largest set may hold."""
    return [texts.vocabulary.fold_texts[form] for form in forms[: _SET_SIZES[-1]]]


def _common(texts: Texts, numbers: Int[np.ndarray, " window"]) -> list[str]:
    """The commonest forms, at most eight, each in at least two windows."""
    forms, counts = np.unique(numbers[numbers >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[: _SET_SIZES[-2]]
    return [texts.vocabulary.fold_texts[forms[i]] for i in order if counts[i] >= 2]


def _bigrams(texts: Texts, before: Int[np.ndarray, " window"], at: Int[np.ndarray, " window"]) -> list[Rule]:
    forms = texts.vocabulary.fold_texts
    pairs, counts = np.unique(np.stack([before, at], 1)[before >= 0], axis=0, return_counts=True)
    order = [i for i in np.argsort(-counts, kind="stable")[:2] if counts[i] > _COMMON * len(at)]
    return [Bigram(first=forms[pairs[i, 0]], second=forms[pairs[i, 1]]) for i in order]


def _affixes(texts: Texts, ids: Int[np.ndarray, " window"], known: Evidence) -> list[Rule]:
    """Beginnings and endings that enough different words of the feature share, and fewer words at which it is silent.

    A rule about letters speaks of every word with them: “they”, “them” and “their” share three letters with “then” and “these”, and so make
    no rule about letters but a list of words. A beginning has four letters at least: three are shared by chance too often.
    """
    found: list[Rule] = []
    vocabulary = texts.vocabulary
    for place, tables, lengths in (("prefix", vocabulary.prefixes, (4, 5)), ("suffix", vocabulary.suffixes, (1, 2, 3, 4))):
        for length in lengths:
            table = tables(length)[:-1]
            numbers, counts = np.unique(table[ids[ids >= 0]], return_counts=True)
            for number in numbers[(numbers >= 0) & (counts > _COMMON * len(ids))].tolist():
                forms = np.unique(vocabulary.folded[:-1][table == number])
                own = int(known.firing[forms].sum())
                if own >= max(_AFFIX_WORDS, int(known.silent[forms].sum())):
                    found.append(Affix(place=place, letters=affix_letters(number)))  # pyright: ignore[reportArgumentType]
    return found
