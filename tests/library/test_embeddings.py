"""Texts as vectors."""

import numpy as np
import pytest

from saelab.embeddings import Hashed, MiniLM, embedder
from saelab.errors import NotFound


def test_texts_of_the_same_words_are_alike_and_others_are_not():
    first, same, other = Hashed().texts(["The court met.", "the COURT met .", "a ship at sea"])
    assert first @ same == pytest.approx(1)
    assert abs(first @ other) < 0.2
    assert np.linalg.norm(other) == pytest.approx(1)


def test_a_text_without_words_is_like_nothing():
    assert not Hashed().texts([" "]).any()
    assert Hashed().texts([]).shape[0] == 0


def test_one_of_each_is_shared_and_minilm_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr("saelab.embeddings.find_spec", lambda name: None)
    assert embedder("hashed") is embedder("hashed")
    with pytest.raises(NotFound, match=r"saelab\[embeddings\]"):
        MiniLM()
