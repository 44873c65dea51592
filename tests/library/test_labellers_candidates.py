import itertools

import numpy as np

from saelab.features.views import Windows
from saelab.features.vocabulary import Texts, Vocabulary
from saelab.labellers.candidates import candidates
from saelab.labellers.predicates import Affix, Rule, TokenIs

LENGTH = 8
SILENT = (" then", " these", " there", " the", " theory", " a", " of", " sat", " dog", " runs")


def proposed(words: tuple[str, ...]) -> list[Rule]:
    """The candidates for a feature that fires on some words, one a window, among others on which it is silent."""
    others = itertools.cycle(SILENT)
    said = [[next(others) if column != row % LENGTH else words[row % len(words)] for column in range(LENGTH)] for row in range(24)]
    fires = np.array([[float(word in words) for word in text] for text in said], np.float32)
    quiet = [[next(others) for _ in range(LENGTH)] for _ in range(24)]
    vocabulary = Vocabulary(tuple(dict.fromkeys([*words, *SILENT])))

    def windows(texts: list[list[str]], values: np.ndarray) -> Windows:
        ids = np.array([[vocabulary.strings.index(word) for word in text] for text in texts], np.int32)
        number = np.arange(len(texts))
        return Windows(
            split="explain",
            texts=Texts(vocabulary=vocabulary, ids=ids, start=np.zeros(len(texts), np.int64), domains=("prose",) * len(texts)),
            counted=np.ones(ids.shape, np.bool_),
            values=values,
            document=number,
            segment=number,
        )

    return candidates(windows(said, fires), windows(quiet, np.zeros_like(fires)))


def test_they_them_and_their_are_words_not_a_beginning():
    found = proposed((" they", " them", " their"))
    assert any(isinstance(rule, TokenIs) and {"they", "them", "their"} <= set(rule.any_of) for rule in found)
    assert [rule for rule in found if isinstance(rule, Affix) and rule.letters.startswith("the")] == []


def test_words_that_share_a_beginning_with_no_silent_word_are_a_beginning():
    found = proposed((" election", " elected", " electoral", " elects"))
    assert Affix(place="prefix", letters="elect") in found
