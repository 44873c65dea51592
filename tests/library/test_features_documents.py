from dataclasses import replace

import numpy as np
import planted
import pytest

from saelab.errors import Invalid, NotFound
from saelab.features.collect import collect
from saelab.features.documents import firing_documents
from saelab.features.postings import Postings


@pytest.fixture(scope="module")
def postings(tmp_path_factory) -> Postings:
    folder = tmp_path_factory.mktemp("documents")
    collect(planted.PlantedDictionary(), planted.chunks(), planted.CORPUS, replace(planted.CONFIG, postings=1.0), folder)
    return Postings(folder, planted.CORPUS)


def strengths(postings, feature) -> dict[str, float]:
    """The largest magnitude in each document: the slow and simple way."""
    found, best = postings.feature(feature), {}
    for document, value in zip(found.document.tolist(), found.value.tolist(), strict=True):
        key = postings.corpus.document(document).key
        best[key] = max(best.get(key, 0.0), abs(value))
    return best


@pytest.mark.parametrize("feature", [planted.COURT, planted.SIGNED, planted.DENSE])
def test_documents_are_those_that_fire_it_the_strongest_first(postings, feature):
    expected, cursor, items = strengths(postings, feature), None, []
    while True:
        page = firing_documents(postings, feature, planted.STRINGS, cursor, limit=100)
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
    shown = {item.key: abs(item.example.values[item.example.peak]) for item in items}
    assert shown == pytest.approx(expected)
    assert len(items) == page.total == len(expected)
    assert list(shown.values()) == sorted(shown.values(), reverse=True)
    assert sum(item.count for item in items) == len(postings.feature(feature))


def test_the_text_around_is_the_document_at_that_place(postings):
    for item in firing_documents(postings, planted.COURT, planted.STRINGS, limit=20).items:
        example = item.example
        tokens = planted.CORPUS.document_tokens(example.document)[example.position :][: len(example.tokens)]
        assert example.tokens == tuple(planted.STRINGS[token] for token in tokens)
        assert np.abs(example.values).argmax() == example.peak or abs(example.values[example.peak]) == max(map(abs, example.values))
        assert planted.CORPUS.document(example.document).key == item.key


def test_a_feature_that_never_fires_has_no_documents(postings):
    page = firing_documents(postings, planted.DEAD, planted.STRINGS)
    assert (page.items, page.total, page.next_cursor) == ((), 0, None)
    assert page.kept == planted.CORPUS.num_documents


def test_what_cannot_be_asked_is_refused(postings):
    with pytest.raises(Invalid, match="cursor"):
        firing_documents(postings, planted.COURT, planted.STRINGS, "-1")
    with pytest.raises(NotFound, match="no feature"):
        firing_documents(postings, planted.D_SAE, planted.STRINGS)
