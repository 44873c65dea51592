"""Named concepts: which tokens of a text have them."""

import pytest

from saelab.analyses.lexicon import CONCEPTS, token_labels

CASES = {
    "digits": (["In", " 18", "61", ",", " x"], [1, 2]),
    "years": (["In", " 18", "61", ",", " 12"], [1, 2]),
    "dates": (["on", " March", " 4", ",", " 1861"], [1, 2]),
    "capitalised words": (["The", " House", " of", " USA"], [0, 1]),
    "words in capitals": (["The", " US", "A", " x"], [1, 2]),
    "sentence starts": (["End", ".", " Then", " it"], [2]),
    "questions": (["Yes", ".", " Who", " is", "?", " Me"], [2, 3, 4]),
    "quotations": (["He", ' "', "no", '"', " left"], [1, 2, 3]),
    "parentheses": (["a", " (", "b", ")", " c"], [1, 2, 3]),
    "line breaks": (["a", "\n", "\n", "b"], [1, 2]),
    "indentation": (["if", ":", "\n", "    ", "x"], [3]),
    "code comments": (["x", " =", " 1", " #", " why", "\n", "y"], [3, 4]),
    "names in code": (["the", " max", "_", "len", " of", " getName"], [1, 2, 3, 5]),
    "URLs and addresses": (["see", " https", "://", "a.b", " now"], [1, 2, 3]),
    "negations": (["I", " don", "'t", " know"], [2]),
    "words after “the”": (["the", " court", " of"], [1]),
    "French": (["Il", " est", " dans", " la", " ville", ".", " He", " is", " of", " the"], [0, 1, 2, 3, 4]),
    "money": (["paid", " $", "5", ",", "000", " to"], [1, 2, 3, 4]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_concept_is_on_the_tokens_that_its_rule_covers(name):
    tokens, expected = CASES[name]
    assert token_labels(tokens, CONCEPTS[name]).nonzero()[0].tolist() == expected


def test_there_are_thirty_concepts_and_none_is_found_in_nothing():
    assert len(CONCEPTS) >= 30
    for finder in CONCEPTS.values():
        assert not token_labels(["", " ", ""], finder)[[0, 2]].any()
