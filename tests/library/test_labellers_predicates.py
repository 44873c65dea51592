import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelab.errors import Invalid
from saelab.labellers.predicates import (
    Affix,
    AllOf,
    AnyOf,
    Bigram,
    DomainIs,
    NextIs,
    PositionBelow,
    PreviousIs,
    ShapeIs,
    TokenIs,
    Topic,
    parse,
    write,
)

TEXT = ["The", " Court", " of", " Appeals", " met", " in", " 1984", ".", "\n", "Running", " COURT"]


def where(rule) -> list[int]:
    return [i for i, fired in enumerate(rule.fires(TEXT)) if fired]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (TokenIs(any_of=("court",)), [1, 10]),
        (TokenIs(any_of=("absent",)), []),
        (PreviousIs(any_of=("of", "in")), [3, 6]),
        (NextIs(any_of=("met",)), [3]),
        (Bigram(first="of", second="appeals"), [3]),
        (ShapeIs(shape="number"), [6]),
        (ShapeIs(shape="punctuation"), [7]),
        (ShapeIs(shape="newline"), [8]),
        (ShapeIs(shape="upper"), [10]),
        (ShapeIs(shape="capitalised"), [0, 1, 3, 9]),
        (Affix(place="suffix", letters="ing"), [9]),
        (Affix(place="prefix", letters="app"), [3]),
        (Affix(place="suffix", letters="é"), []),
        (PositionBelow(below=2), [0, 1]),
        (Topic(any_of=("court", "appeals"), at_least=2), [3, 4, 5, 6, 7, 8, 9, 10]),
        (DomainIs(domain="law"), []),
        (AllOf(parts=(TokenIs(any_of=("court",)), PositionBelow(below=5))), [1]),
        (AnyOf(parts=(ShapeIs(shape="number"), ShapeIs(shape="newline"))), [6, 8]),
    ],
)
def test_each_predicate_fires_where_it_says(rule, expected):
    assert where(rule) == expected
    assert parse(write(rule)) == rule
    assert rule.words()


def test_a_text_without_tokens_fires_nowhere():
    assert TokenIs(any_of=("a",)).fires([]) == []


words = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=4).map(tuple)
leaves = st.one_of(
    words.map(lambda w: TokenIs(any_of=w)),
    words.map(lambda w: PreviousIs(any_of=w)),
    words.map(lambda w: Topic(any_of=w, at_least=len(w))),
    st.integers(0, 9).map(lambda n: PositionBelow(below=n)),
)
trees = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda kind, parts: kind(parts=tuple(parts)), st.sampled_from([AllOf, AnyOf]), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=4,
)


@given(trees, st.lists(st.text(st.characters(codec="utf-8"), max_size=6), max_size=12))
def test_any_predicate_survives_its_json_and_says_one_truth_a_token(rule, tokens):
    again = parse(write(rule))
    assert again == rule
    assert again.fires(tokens) == rule.fires(tokens)
    assert len(rule.fires(tokens)) == len(tokens)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"predicate": {"kind": "magic"}}', '{"predicate": {"kind": "token", "any_of": [1]}}', '{"predicate": 3}', "x"]
)
def test_json_that_is_no_predicate_is_refused(text):
    with pytest.raises(Invalid, match="predicate"):
        parse(text)
