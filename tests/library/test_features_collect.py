import itertools

import numpy as np
import planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.errors import Invalid
from saelab.features.collect import CollectConfig, Collected, collect
from saelab.features.examples import LEVELS, SPLITS, Grid, Kept, uniform


@pytest.fixture(scope="module")
def whole() -> Collected:
    return planted.collected()


@pytest.fixture(scope="module")
def dense() -> dict[tuple[int, int], np.ndarray]:
    """Codes of every token, by (window, position): the slow and simple way."""
    dictionary = planted.PlantedDictionary()
    found = {}
    for chunk in planted.chunks():
        codes = dictionary.encode(chunk.x).dense().numpy()
        found |= {(int(w), int(p)): codes[i] for i, (w, p) in enumerate(zip(chunk.window, chunk.position, strict=True))}
    return found


def segments_of(dense, feature: int) -> dict[int, tuple[float, float]]:
    """Largest and smallest activation in each segment where the feature fires."""
    found: dict[int, list[float]] = {}
    per_window = -(-planted.CONTEXT // planted.CONFIG.width)
    for (window, position), codes in dense.items():
        if codes[feature] != 0:
            found.setdefault(window * per_window + position // planted.CONFIG.width, []).append(float(codes[feature]))
    return {segment: (max(0.0, *values), min(0.0, *values)) for segment, values in found.items()}


def same(one: Collected, other: Collected) -> None:
    for name in ("count", "max", "min", "histogram"):
        np.testing.assert_array_equal(getattr(one.statistics, name), getattr(other.statistics, name))
    np.testing.assert_allclose(one.statistics.total, other.statistics.total, rtol=1e-12)
    np.testing.assert_allclose(one.statistics.squares, other.statistics.squares, rtol=1e-12)
    np.testing.assert_array_equal(one.segments, other.segments)
    assert one.statistics.num_tokens == other.statistics.num_tokens
    assert one.kept.keys() == other.kept.keys()
    for table, kept in one.kept.items():
        for name in ("key", "segment", "peak", "levels"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(other.kept[table], name), err_msg=f"{table}.{name}")
    for name in ("segments", "seen", "feature", "member", "peak"):
        np.testing.assert_array_equal(getattr(one.pool, name), getattr(other.pool, name))


def test_statistics_equal_those_of_every_token_counted_at_once(whole, dense):
    codes = np.array(list(dense.values()))
    assert whole.statistics.num_tokens == len(codes)
    np.testing.assert_array_equal(whole.statistics.count, (codes != 0).sum(0))
    np.testing.assert_allclose(whole.statistics.total, codes.astype(np.float64).sum(0), rtol=1e-9)
    np.testing.assert_allclose(whole.statistics.squares, (codes.astype(np.float64) ** 2).sum(0), rtol=1e-9)
    np.testing.assert_array_equal(whole.statistics.max, codes.max(0).clip(min=0))
    np.testing.assert_array_equal(whole.statistics.min, codes.min(0).clip(max=0))
    np.testing.assert_array_equal(whole.statistics.histogram.sum(1), whole.statistics.count)


@pytest.mark.parametrize("feature", [planted.COURT, planted.SIGNED, planted.DENSE, planted.NOISE, planted.DEAD])
def test_strongest_segments_and_uniform_samples_equal_a_full_sort(whole, dense, feature):
    found = segments_of(dense, feature)
    grid = Grid(planted.CORPUS, planted.CONFIG.width, planted.CONFIG.before)
    strongest = sorted(((-top, s) for s, (top, _) in found.items() if top > 0))[: planted.CONFIG.top]
    kept = whole.kept["top"]
    assert list(zip(-kept.key[feature], kept.segment[feature], strict=True))[: len(strongest)] == strongest
    for number, name in enumerate(SPLITS):
        own = [s for s in found if grid.split(np.array([s]))[0] == number]
        assert whole.segments[feature, number] == len(own)
        size = getattr(planted.CONFIG, name)
        by_hash = sorted(own, key=lambda s: -uniform(np.array([s]), feature, 0)[0])[:size]
        assert whole.kept[name].segment[feature][: len(by_hash)].tolist() == by_hash


def test_negative_codes_have_their_own_strongest_segments(whole, dense):
    found = segments_of(dense, planted.SIGNED)
    lowest = sorted((low, s) for s, (_, low) in found.items() if low < 0)[: planted.CONFIG.top]
    assert whole.kept["bottom"].segment[planted.SIGNED].tolist() == [s for _, s in lowest]
    assert whole.statistics.min[planted.SIGNED] < -2
    assert (whole.kept["bottom"].segment[planted.COURT] == -1).all()


def test_kept_activations_are_those_of_the_tokens_shown_within_a_255th(whole, dense):
    grid = whole.grid
    for table in ("top", "bottom", "score"):
        kept = whole.kept[table]
        for feature, rank in itertools.product((planted.COURT, planted.SIGNED, planted.DENSE), range(5)):
            segment = int(kept.segment[feature, rank])
            if segment < 0:
                continue
            window, place = divmod(segment, grid.per_window)
            positions = place * grid.width - grid.before + np.arange(grid.length)
            exact = np.array([dense[window, p][feature] if (window, p) in dense else 0.0 for p in positions.tolist()])
            peak = abs(float(kept.peak[feature, rank]))
            got = kept.levels[feature, rank].astype(float) / LEVELS * peak
            inside = np.abs(exact) <= peak
            assert np.abs(got - exact)[inside].max() <= peak / LEVELS
            np.testing.assert_array_equal(got != 0, exact != 0)
            assert np.abs(exact[grid.before :]).max() == peak


def test_halves_merged_are_the_whole(whole):
    windows = len(planted.CORPUS.window_length)
    halves = [
        collect(planted.PlantedDictionary(), planted.chunks(half), planted.CORPUS, planted.CONFIG)
        for half in (range(0, windows, 2), range(1, windows, 2))
    ]
    halves[1].merge(halves[0])
    same(halves[1], whole)


def test_order_and_size_of_chunks_do_not_matter(whole):
    shuffled = planted.chunks(np.random.default_rng(1).permutation(len(planted.CORPUS.window_length)), size=7)
    config = CollectConfig(**{**vars(planted.CONFIG), "batch": 300})
    same(collect(planted.PlantedDictionary(), shuffled, planted.CORPUS, config), whole)


def test_a_killed_pass_goes_on_where_it_was_saved(whole, tmp_path):
    class Killed(Exception):
        pass

    def cut(chunks, after):
        yield from chunks[:after]
        raise Killed

    encoded = []

    class Counting(planted.PlantedDictionary):
        def encode(self, x):
            encoded.append(len(x))
            return super().encode(x)

    chunks = planted.chunks(size=10)
    with pytest.raises(Killed):
        collect(Counting(), cut(chunks, 60), planted.CORPUS, planted.CONFIG, tmp_path)
    before = sum(encoded)
    resumed = collect(Counting(), chunks, planted.CORPUS, planted.CONFIG, tmp_path)
    same(resumed, whole)
    assert before >= planted.CONFIG.checkpoint
    assert sum(encoded) < whole.statistics.num_tokens + planted.CONFIG.checkpoint + 2 * planted.CONFIG.batch


def test_a_saved_state_of_another_dictionary_is_not_taken_up(whole, tmp_path):
    class Other(planted.PlantedDictionary):
        def __init__(self):
            super().__init__()
            self.rows = -self.rows

    collect(Other(), planted.chunks(range(50)), planted.CORPUS, planted.CONFIG, tmp_path)
    same(collect(planted.PlantedDictionary(), planted.chunks(), planted.CORPUS, planted.CONFIG, tmp_path), whole)


def test_the_pool_knows_exactly_where_each_feature_fires(whole, dense):
    pool = whole.pool
    assert pool.seen.all()
    for feature in (planted.COURT, planted.SIGNED, planted.TOPIC, planted.DEAD):
        expected = sorted(set(segments_of(dense, feature)) & set(pool.segments.tolist()))
        assert pool.segments[pool.fires(feature)].tolist() == expected


def test_activations_of_another_width_are_refused():
    chunk = planted.chunks(range(3))[0]
    wrong = type(chunk)(x=torch.zeros(len(chunk.x), 5), window=chunk.window, position=chunk.position)
    with pytest.raises(Invalid, match="width 5"):
        collect(planted.PlantedDictionary(), [wrong], planted.CORPUS, planted.CONFIG)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=60), st.integers(1, 60))
def test_kept_segments_do_not_depend_on_how_they_were_offered(pairs, cut):
    feature = np.array([f for f, _ in pairs])
    key = np.array([k for _, k in pairs], float)
    segment = np.arange(len(pairs))

    def offered(*parts):
        kept = Kept(4, 3, 1)
        for part in parts:
            order = part[np.argsort(feature[part], kind="stable")]
            kept.offer(feature[order], key[order], segment[order], key[order], lambda some: np.zeros((len(some), 1), np.int8))
        return kept

    once = offered(segment)
    twice = offered(segment[cut:], segment[:cut])
    merged = offered(segment[::2])
    merged.merge(offered(segment[1::2]))
    for other in (twice, merged):
        np.testing.assert_array_equal(once.segment, other.segment)
        np.testing.assert_array_equal(once.key, other.key)
