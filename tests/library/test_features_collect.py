import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from planted import same

from saelab.errors import Conflict, Invalid
from saelab.features.collect import Collected, Part, Reader, collect, collect_together
from saelab.features.examples import LEVELS, SPLITS, Grid
from saelab.features.kept import uniform
from saelab.features.sketch import Sketch
from saelab.features.statistics import BINS_PER_OCTAVE, LOWEST_OCTAVE, NUM_BINS
from saelab.features.token_tables import token_tables


def hashed(item: int, feature: int) -> int:
    return int(uniform(torch.tensor([item]), torch.tensor([feature]), 0))


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


def test_statistics_equal_those_of_every_token_counted_at_once(whole, dense):
    codes = np.array(list(dense.values()))
    assert whole.statistics.num_tokens == len(codes)
    np.testing.assert_array_equal(whole.statistics.count, (codes != 0).sum(0))
    np.testing.assert_allclose(whole.statistics.total, codes.astype(np.float64).sum(0), rtol=1e-9)
    np.testing.assert_allclose(whole.statistics.squares, (codes.astype(np.float64) ** 2).sum(0), rtol=1e-9)
    np.testing.assert_array_equal(whole.statistics.max, codes.max(0).clip(min=0))
    np.testing.assert_array_equal(whole.statistics.min, codes.min(0).clip(max=0))
    place = np.floor((np.log2(np.abs(np.where(codes == 0, 1, codes)).astype(np.float32)) - LOWEST_OCTAVE) * BINS_PER_OCTAVE)
    cells = np.clip(place, 0, NUM_BINS - 1).astype(int)
    counts = [np.bincount(cells[:, feature][codes[:, feature] != 0], minlength=NUM_BINS) for feature in range(planted.D_SAE)]
    np.testing.assert_array_equal(whole.statistics.histogram, counts)


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
        by_hash = sorted(own, key=lambda s: (-hashed(s, feature), s))[:size]
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


@pytest.mark.parametrize("feature", [planted.COURT, planted.SIGNED, planted.DENSE, planted.DEAD])
def test_the_sample_of_tokens_equals_a_full_sort(whole, dense, feature):
    grid = whole.grid
    found = {window * grid.positions + position: codes[feature] for (window, position), codes in dense.items() if codes[feature] != 0}
    by_hash = sorted(found, key=lambda place: (-hashed(place, feature), place))[: planted.CONFIG.tokens]
    kept = whole.tokens.segment[feature]
    assert kept[: len(by_hash)].tolist() == by_hash
    assert (kept[len(by_hash) :] == -1).all()
    assert whole.tokens.peak[feature][: len(by_hash)].tolist() == [found[place] for place in by_hash]


@pytest.mark.parametrize("offset", [0, -1, 1])
def test_token_tables_count_the_sample_and_are_exact_for_features_that_fire_rarely(whole, dense, offset):
    config = replace(planted.CONFIG, tokens=1000)
    exact = token_tables(collect(planted.PlantedDictionary(), planted.chunks(), planted.CORPUS, config), rows=1000)[offset]
    sampled = token_tables(whole)[offset]
    assert exact.exact[planted.COURT]
    assert not sampled.exact[planted.COURT]
    counts: dict[int, list[float]] = {}
    for (window, position), codes in dense.items():
        if codes[planted.COURT]:
            text = planted.CORPUS.window_tokens(window)
            token = int(text[position + offset]) if 0 <= position + offset < len(text) else -1
            counts.setdefault(token, []).append(float(codes[planted.COURT]))
    found = exact.of(planted.COURT)
    assert {token: count for token, count, _ in found} == {token: len(values) for token, values in counts.items()}
    np.testing.assert_allclose([total for *_, total in found], [sum(counts[token]) for token, *_ in found], rtol=1e-6)
    assert [count for _, count, _ in found] == sorted((len(values) for values in counts.values()), reverse=True)
    assert sampled.size[planted.COURT] == planted.CONFIG.tokens
    assert sampled.of(planted.DEAD) == []
    assert len(sampled.of(planted.DENSE)) == 16


def test_what_is_kept_does_not_grow_with_the_corpus(whole):
    half = collect(planted.PlantedDictionary(), planted.chunks(range(400)), planted.CORPUS, planted.CONFIG)
    assert half.statistics.num_tokens < whole.statistics.num_tokens / 2
    for table, kept in {**whole.kept, "tokens": whole.tokens}.items():
        smaller = {**half.kept, "tokens": half.tokens}[table]
        assert [getattr(kept, name).nbytes for name in vars(kept)] == [getattr(smaller, name).nbytes for name in vars(smaller)]


def test_places_give_their_tokens_back(whole):
    grid = whole.grid
    windows = np.array([5, 0, 5, 7])
    positions = np.array([1, 3, 0, grid.positions - 1])
    texts = [planted.CORPUS.window_tokens(int(window)) for window in windows]
    expected = [int(text[p]) if p < len(text) else -1 for text, p in zip(texts, positions, strict=True)]
    assert grid.tokens_at(windows * grid.positions + positions).tolist() == expected
    assert len(grid.tokens_at(np.zeros(0, np.int64))) == 0


def test_three_parts_put_together_are_the_whole(whole, tmp_path):
    chunks = planted.chunks()
    for number in (2, 0, 1):
        collect_together([Reader(planted.PlantedDictionary(), chunks, tmp_path)], planted.CORPUS, planted.CONFIG, Part(number=number, of=3))

    class Nothing(planted.Chunks):
        def chunk(self, number):
            raise AssertionError(f"chunk {number} was read again")

    same(collect(planted.PlantedDictionary(), Nothing(chunks), planted.CORPUS, planted.CONFIG, tmp_path), whole)


def test_a_pass_reads_the_chunks_that_no_part_has_read(whole, tmp_path):
    reader = Reader(planted.PlantedDictionary(), planted.chunks(), tmp_path)
    collect_together([reader], planted.CORPUS, planted.CONFIG, Part(number=1, of=4))
    for _ in range(2):  # the second time the part lies there beside the whole state, which holds it
        same(collect_together([reader], planted.CORPUS, planted.CONFIG)[0], whole)


def test_parts_that_count_a_chunk_twice_are_refused():
    one, other = (Sketch(Grid(planted.CORPUS, 16, 8), planted.CONFIG, planted.D_SAE, num_chunks=3) for _ in range(2))
    one.chunks[:2] = other.chunks[1:] = True
    with pytest.raises(Conflict, match="both read chunk 1"):
        one.merge(other)


def test_a_part_that_cannot_be_is_refused():
    with pytest.raises(Invalid, match="parts are 0 to 2"):
        collect_together([Reader(planted.PlantedDictionary(), planted.chunks())], planted.CORPUS, planted.CONFIG, Part(number=3, of=3))


class Negated(planted.PlantedDictionary):
    def encode(self, x):
        codes = super().encode(x)
        return replace(codes, values=-codes.values)


def test_several_dictionaries_at_once_are_each_as_alone(whole):
    readers = [Reader(planted.PlantedDictionary(), planted.chunks()), Reader(Negated(), planted.chunks())]
    found, negated = collect_together(readers, planted.CORPUS, planted.CONFIG)
    same(found, whole)
    np.testing.assert_array_equal(negated.kept["bottom"].segment[planted.COURT], whole.kept["top"].segment[planted.COURT])
    np.testing.assert_array_equal(negated.pool.segments, whole.pool.segments)
    np.testing.assert_array_equal(negated.pool.member, whole.pool.member)
    np.testing.assert_array_equal(negated.statistics.min, -whole.statistics.max)


def test_order_and_size_of_chunks_do_not_matter(whole):
    shuffled = planted.chunks(np.random.default_rng(1).permutation(len(planted.CORPUS.window_length)), size=7)
    same(collect(planted.PlantedDictionary(), shuffled, planted.CORPUS, replace(planted.CONFIG, batch=300)), whole)


def test_a_killed_pass_goes_on_where_it_was_saved(whole, tmp_path):
    class Killed(Exception):
        pass

    class Cut(planted.Chunks):
        def chunk(self, number):
            if number == 60:
                raise Killed
            return self[number]

    encoded = []

    class Counting(planted.PlantedDictionary):
        def encode(self, x):
            encoded.append(len(x))
            return super().encode(x)

    chunks = planted.chunks(size=10)
    with pytest.raises(Killed):
        collect(Counting(), Cut(chunks), planted.CORPUS, planted.CONFIG, tmp_path)
    assert sum(encoded) > 0
    same(collect(Counting(), chunks, planted.CORPUS, planted.CONFIG, tmp_path), whole)
    assert sum(encoded) == whole.statistics.num_tokens


_SCRIPT = """
import sys, time
import planted
from pathlib import Path
from saelab.features.collect import collect

class Slow(planted.Chunks):
    def chunk(self, number):
        print(number, flush=True)
        time.sleep(0.02)
        return self[number]

collect(planted.PlantedDictionary(), Slow(planted.chunks(size=10)), planted.CORPUS, planted.CONFIG, Path(sys.argv[1]))
"""


def test_a_pass_killed_with_sigkill_ends_the_same(whole, tmp_path):
    paths = os.pathsep.join(path or "." for path in sys.path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", _SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        for _ in range(12):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "collect.part.safetensors").is_file()
    same(collect(planted.PlantedDictionary(), planted.chunks(size=10), planted.CORPUS, planted.CONFIG, tmp_path), whole)


def test_a_saved_state_of_another_dictionary_is_not_taken_up(whole, tmp_path):
    class Other(planted.PlantedDictionary):
        def __init__(self):
            super().__init__()
            self.rows = -self.rows

    collect(Other(), planted.chunks(), planted.CORPUS, planted.CONFIG, tmp_path)
    same(collect(planted.PlantedDictionary(), planted.chunks(), planted.CORPUS, planted.CONFIG, tmp_path), whole)


def test_the_pool_knows_exactly_where_each_feature_fires(whole, dense):
    pool = whole.pool
    assert pool.seen.all()
    for feature in (planted.COURT, planted.SIGNED, planted.TOPIC, planted.DEAD):
        expected = sorted(set(segments_of(dense, feature)) & set(pool.segments.tolist()))
        assert pool.segments[pool.fires(feature)].tolist() == expected


def test_activations_of_another_width_are_refused():
    chunk = planted.chunks(range(3))[0]
    wrong = replace(chunk, x=torch.zeros(len(chunk.x), 5))
    with pytest.raises(Invalid, match="width 5"):
        collect(planted.PlantedDictionary(), planted.Chunks([wrong]), planted.CORPUS, planted.CONFIG)
