import dataclasses

import numpy as np
import planted
import pytest

from saelab.features.collect import CollectConfig
from saelab.features.duplicates import leaked
from saelab.features.examples import SPLITS
from saelab.features.views import Views

LARGE = CollectConfig(top=12, explain=40, select=16, score=40, width=16, before=8, pool=1500)


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    store = planted.store(tmp_path_factory.mktemp("views") / "features.db", LARGE)
    yield Views(store)
    store.close()


def split_of(document: int) -> str:
    return planted.CORPUS.document(int(document)).split


def test_labellers_and_scorers_see_documents_of_different_splits(views):
    for index in (planted.COURT, planted.TOPIC, planted.DENSE, 20):
        explain, score = views.explain(index), views.score(index)
        assert len(explain.positives) > 10 < len(score.positives)
        for windows in (explain.positives, explain.negatives):
            assert {split_of(d) for d in windows.document} <= {"explain"}
        for windows in (explain.select_positives, explain.select_negatives):
            assert {split_of(d) for d in windows.document} <= {"select"}
        for windows in (score.positives, score.negatives):
            assert {split_of(d) for d in windows.document} <= {"score"}


def test_a_view_of_the_wrong_split_cannot_be_made(views):
    explain, score = views.explain(planted.COURT), views.score(planted.COURT)
    with pytest.raises(AssertionError, match="another split"):
        dataclasses.replace(score, positives=explain.positives)
    with pytest.raises(AssertionError, match="another split"):
        dataclasses.replace(explain, negatives=score.negatives)


def test_positives_hold_the_feature_and_negatives_are_silent(views):
    dictionary = planted.PlantedDictionary()
    fires = {}
    for chunk in planted.chunks():
        z = dictionary.encode(chunk.x).dense().numpy()
        for row, (window, position) in enumerate(zip(chunk.window.tolist(), chunk.position.tolist(), strict=True)):
            fires.setdefault(window * 4 + position // 16, []).append(z[row])
    for index in (planted.COURT, planted.AFTER_OF, planted.SIGNED, planted.DENSE, planted.NOISE):
        view = views.score(index)
        assert all(np.array(fires[int(s)])[:, index].any() for s in view.positives.segment)
        assert not any(np.array(fires[int(s)])[:, index].any() for s in view.negatives.segment)
        assert (view.positives.values * view.positives.counted != 0).any(1).all()
        assert not (view.positives.counted & (view.positives.texts.ids < 0)).any()


def test_negatives_come_in_four_kinds_as_many_as_positives(views):
    view = views.score(planted.AFTER_OF)
    assert set(view.kinds) == {"random", "same_token", "near_miss", "neighbour"}
    assert len(view.negatives) == len(view.positives) == len(view.kinds) == 40
    assert len(set(view.negatives.segment.tolist())) == 40
    peaks = set(view.positives.texts.folded[np.arange(40), view.positives.peak].tolist())
    same = np.array(view.kinds) == "same_token"
    folded = np.where(view.negatives.counted, view.negatives.texts.folded, -1)[same]
    assert all(set(row.tolist()) & peaks for row in folded)


def test_neighbour_negatives_hold_a_neighbour_of_the_feature(views):
    index = planted.SIGNED
    view = views.score(index)
    near = np.array(view.kinds) == "neighbour"
    pool = views.store.array("pool.segments", np.int64)
    feature, member = views.store.array("pool.feature", np.int32), views.store.array("pool.member", np.int32)
    holding = {int(pool[m]) for f, m in zip(feature, member, strict=True) if f in (index + 1, index + 2)}
    assert near.any()
    assert set(view.negatives.segment[near].tolist()) <= holding


def test_near_misses_share_more_words_with_the_positives_than_random_windows(views):
    view = views.score(planted.TOPIC)
    words = set(view.positives.texts.folded[view.positives.counted].tolist())
    rare = {w for w in words if w >= 0 and views.vocabulary.fold_texts[w] in {"court", "judge", "appeal", "lawyer", "trial"}}
    kinds = np.array(view.kinds)

    def share(kind: str) -> float:
        rows = view.negatives.texts.folded[kinds == kind]
        return float(np.mean([bool(rare & set(row.tolist())) for row in rows]))

    assert share("near_miss") > share("random")


def test_score_positives_come_alike_from_every_tenth(views):
    kept = views.store.examples(planted.ENDINGS)["score"]
    view = views.score(planted.ENDINGS)
    peaks = dict(zip(kept.segment.tolist(), kept.peak.tolist(), strict=True))
    edges = np.quantile(kept.peak, np.linspace(0, 1, 11))
    counts, _ = np.histogram([peaks[s] for s in view.positives.segment.tolist()], edges)
    assert counts.min() >= 3


def test_views_are_the_same_every_time(views):
    one, other = views.score(planted.NOISE), views.score(planted.NOISE)
    np.testing.assert_array_equal(one.negatives.segment, other.negatives.segment)
    assert one.kinds == other.kinds


def test_windows_that_repeat_thirteen_tokens_of_an_earlier_split_are_found():
    random = np.random.default_rng(0)
    tokens = random.integers(0, 1000, (6, 20))
    split = np.array([SPLITS.index(name) for name in ("explain", "select", "score", "score", "score", "explain")])
    tokens[2, 4:17] = tokens[0, 6:19]
    tokens[3, 3:15] = tokens[0, 6:18]
    tokens[4, 0:13] = tokens[1, 5:18]
    assert leaked(tokens, split, before=0).tolist() == [False, False, True, False, True, False]


def test_short_windows_that_are_the_same_are_found():
    short = np.full((3, 20), -1)
    short[:, :5] = [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4, 6]]
    assert leaked(short, np.array([0, 2, 2]), before=0).tolist() == [False, True, False]
