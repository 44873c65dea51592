"""Cutting of long texts, and the registry of text sources."""

from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.texts.base import TEXTS, TextSource, pieces

_paragraph = st.text(st.characters(categories=["L", "Zs"]), max_size=60)


def test_every_file_of_the_folder_registers_a_source():
    assert list(TEXTS) == ["bundled", "chats", "files", "hub", "tokens", "toy"]
    assert all(issubclass(TEXTS[name], TextSource) for name in TEXTS)


@settings(deadline=None, max_examples=40)
@given(st.lists(_paragraph), st.integers(1, 30))
def test_pieces_lose_no_letter_and_none_is_empty(paragraphs: list[str], size: int):
    cut = list(pieces(paragraphs, size))
    assert "".join("".join(cut).split()) == "".join("".join(paragraphs).split())
    assert all(piece.strip() for piece in cut)


def test_pieces_end_at_the_first_paragraph_past_the_size():
    assert list(pieces(["aaaa", "bbbb", "cc"], size=5)) == ["aaaa\n\nbbbb", "cc"]


def test_a_paragraph_much_too_long_is_cut_at_white_space():
    cut = list(pieces(["word " * 100], size=50))
    assert max(map(len, cut)) <= 110
    assert all(set(piece.split()) == {"word"} for piece in cut)
