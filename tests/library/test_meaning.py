"""Search by meaning: labels are embedded once, and found by what they mean."""

import numpy as np
import planted
import pytest

from saelab.embeddings import MINILM, Hashed, MiniLM, find_spec
from saelab.meaning import embed_labels
from saelab.records import Label

TEXTS = {2: "the weather and storms", 3: "courts and judges", 7: "numbers of years"}


@pytest.fixture
def store(tmp_path):
    opened = planted.store(tmp_path / "features.db")
    for index, text in TEXTS.items():
        opened.put_label(index, Label(text=text, input_clause=text, labeller="rules"))
    yield opened
    opened.close()


def test_labels_are_embedded_once_and_found_by_the_nearest_vector(store):
    asked = []

    def embed(texts):
        asked.extend(texts)
        return Hashed().texts(texts)

    assert embed_labels(store, embed) == 3
    assert embed_labels(store, embed) == 0
    assert sorted(asked) == sorted(TEXTS.values())
    ((row, cosine), *_) = store.search_meaning(Hashed().texts(["judges and courts"])[0], limit=2)
    assert row.index == 3
    assert cosine == pytest.approx(1, abs=0.4)


@pytest.mark.skipif(find_spec(MINILM) is None, reason="MiniLM is not installed")
def test_a_label_is_found_by_other_words_that_mean_the_same(store):
    embed = MiniLM().texts
    embed_labels(store, embed)
    ((row, cosine), *_) = store.search_meaning(embed(["lawyers in a trial"])[0], limit=3)
    assert row.index == 3
    assert cosine > 0.3
    assert np.isclose(np.linalg.norm(embed(["lawyers"])), 1)
