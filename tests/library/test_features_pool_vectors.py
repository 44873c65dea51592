"""The pool's vectors: made once, in parts, and used for negatives that are near in meaning."""

import shutil

import numpy as np
import planted
import pytest

from saelab import labels
from saelab.embeddings import Hashed, MiniLM
from saelab.features.collect import CollectConfig
from saelab.features.pool_vectors import copy_vectors, embed_pool, pool_vectors
from saelab.features.store import FeatureStore
from saelab.features.views import Views
from saelab.labellers.predicates import TokenIs, write
from saelab.labellers.rules import Rules
from saelab.records import Label
from saelab.scorers.base import Bench
from saelab.scorers.rule_detection import RuleDetection

LARGE = CollectConfig(top=12, explain=40, select=16, score=40, width=16, before=8, pool=1500)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    opened = planted.store(tmp_path_factory.mktemp("pool") / "features.db", LARGE)
    opened.close()
    return opened.path


@pytest.fixture
def store(made, tmp_path):
    opened = FeatureStore(shutil.copy(made, tmp_path / "features.db"))
    yield opened
    opened.close()


def law(texts):
    """What a text has to do with law, and what not."""
    words = [sum(word.strip() in text for word in planted.LAW) for text in texts]
    vectors = np.array([[count, 1.0] for count in words], np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_pool_is_embedded_once_and_a_killed_call_goes_on_where_it_was(store):
    asked = []

    def embed(texts):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(texts))
        return law(texts)

    assert pool_vectors(store) is None
    with pytest.raises(KeyboardInterrupt):
        embed_pool(store, embed)
    assert pool_vectors(store) is None, "half a matrix is none"
    embed_pool(store, lambda texts: asked.append(len(texts)) or law(texts))
    size = len(store.array("pool.segments", np.int64))
    assert sum(asked) == size
    embed_pool(store, lambda _: pytest.fail("it is there"))
    vectors = pool_vectors(store)
    assert vectors.shape == (size, 2)
    views = Views(store)
    np.testing.assert_allclose(vectors, law(views._windows("score", views._rows_of_pool, None).words), atol=1e-3)


def test_hard_negatives_are_nearest_in_meaning_where_there_are_vectors(store):
    words = set(Views(store).score(planted.COURT).kinds)
    assert "near_miss" in words
    assert "near_meaning" not in words
    embed_pool(store, law)
    view = Views(store).score(planted.COURT)
    near = np.array(view.kinds) == "near_meaning"
    assert near.sum() == len(view.positives) // 4
    assert "near_miss" not in view.kinds
    shares = law(view.negatives.words)[:, 0]
    assert shares[near].mean() > shares[np.array(view.kinds) == "random"].mean() + 0.3
    assert not (view.negatives.texts.folded[near] == view.negatives.texts.vocabulary.numbers(["court"])[0])[:, LARGE.before :].any()


def test_a_score_says_of_which_kinds_its_negatives_were(store):
    rule = TokenIs(any_of=("of",))
    label = Label(text="of", input_clause="of", labeller="test", predicate=write(rule))
    for near in ("near_miss", "near_meaning"):
        views = Views(store)
        head, *more = RuleDetection().score(label, views.score(planted.COURT), [], Bench(views))
        assert near in head.negatives
        assert {f"auroc:{kind}" for kind in head.negatives} == {score.metric for score in more if len(score.negatives) == 1}
        embed_pool(store, law)


def test_controls_get_the_vectors_of_the_same_pool_alone(store, tmp_path):
    embed_pool(store, law)
    same, other = (planted.store(tmp_path / f"{size}.db", CollectConfig(**{**vars(LARGE), "pool": size})) for size in (1500, 900))
    for target in (same, other):
        copy_vectors(store, target)
    np.testing.assert_array_equal(pool_vectors(same), pool_vectors(store))
    assert pool_vectors(other) is None
    same.close()
    other.close()


def test_labelling_embeds_the_pool_where_minilm_is_installed(store, monkeypatch):
    lab = type("Lab", (), {"features": store})()
    monkeypatch.setattr(labels, "embedder", Hashed)
    labels._embed_pool(lab, preview=False)
    assert pool_vectors(store) is None
    minilm = MiniLM.__new__(MiniLM)
    monkeypatch.setattr(MiniLM, "texts", lambda _, texts: law(texts))
    monkeypatch.setattr(labels, "embedder", lambda: minilm)
    labels._embed_pool(lab, preview=True)
    assert pool_vectors(store) is None
    labels._embed_pool(lab, preview=False)
    assert pool_vectors(store) is not None
    assert Rules().label(Views(store).explain(planted.COURT)).found
