"""Shuffled batches."""

import time
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.activations.base import Chunk
from saelab.activations.memory import MemoryStore
from saelab.activations.shuffle import batches, first_rows, steps_of
from saelab.corpus import TokenPolicy
from saelab.errors import Corrupt, Invalid

_sizes = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 0)


def _store(sizes: list[int], every: int = 10**9, dtype: torch.dtype = torch.float32) -> MemoryStore:
    """Chunks of so many rows; a row holds its own number; every so many-th is held out."""
    numbers = torch.arange(sum(sizes))
    chunks, masks = [], []
    for part in numbers.split(sizes):
        chunks.append(Chunk(x=part[:, None].to(dtype).expand(-1, 2), window=part, position=part * 0))
        masks.append(part % every == every - 1)
    return MemoryStore("h", TokenPolicy(), chunks, masks)


@settings(deadline=None, max_examples=40)
@given(sizes=_sizes, size=st.integers(1, 40), shuffle_rows=st.integers(1, 60), seed=st.integers(0, 5))
def test_an_epoch_is_a_permutation_of_all_training_rows(sizes: list[int], size: int, shuffle_rows: int, seed: int):
    store = _store(sizes)
    total = sum(sizes)
    stream = batches(store, size, seed, shuffle_rows=shuffle_rows)
    rows = torch.cat(list(islice(stream, -(-3 * total // size))))[: 3 * total, 0].long()
    for epoch in rows.split(total):
        assert sorted(epoch.tolist()) == list(range(total))


@settings(deadline=None, max_examples=40)
@given(sizes=_sizes, size=st.integers(1, 40), shuffle_rows=st.integers(1, 60), start=st.integers(0, 30))
def test_a_stream_resumed_at_any_step_is_the_same_stream(sizes: list[int], size: int, shuffle_rows: int, start: int):
    store = _store(sizes)
    whole = list(islice(batches(store, size, 3, shuffle_rows=shuffle_rows), start + 4))
    resumed = list(batches(store, size, 3, steps=start + 4, start_step=start, shuffle_rows=shuffle_rows))
    assert len(resumed) == 4
    assert all(torch.equal(one, other) for one, other in zip(whole[start:], resumed, strict=True))


@settings(deadline=None, max_examples=40)
@given(sizes=_sizes, size=st.integers(1, 40))
def test_held_out_rows_never_come_unless_asked_for(sizes: list[int], size: int):
    store = _store([*sizes, 12], every=4)
    train = torch.cat(list(islice(batches(store, size, 0), 20)))[:, 0].long()
    held_out = torch.cat(list(islice(batches(store, size, 0, held_out=True), 20)))[:, 0].long()
    assert (train % 4 != 3).all()
    assert (held_out % 4 == 3).all()


def test_all_batches_have_the_size_and_are_float32():
    got = list(batches(_store([7, 9], dtype=torch.bfloat16), 5, 0, steps=10))
    assert [(batch.shape[0], batch.dtype) for batch in got] == [(5, torch.float32)] * 10


def test_a_small_store_is_shuffled_as_a_whole():
    rows = next(batches(_store([100] * 50), 5000, 0))[:, 0]
    places = rows.argsort().float()
    assert abs(torch.corrcoef(torch.stack([places, torch.arange(5000.0)]))[0, 1]) < 0.05
    assert len(set((rows[:100] // 100).tolist())) > 30


def test_epochs_and_seeds_differ():
    store = _store([64])
    first, second = list(batches(store, 64, 0, steps=2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, next(batches(store, 64, 1)))


def test_a_stream_that_was_finished_gives_nothing_more():
    assert list(batches(_store([10]), 2, 0, steps=5, start_step=5)) == []


def test_a_sample_has_no_repeats_and_no_more_rows_than_there_are():
    store = _store([30, 30], every=6)
    assert len(set(first_rows(store, 20, 0)[:, 0].tolist())) == 20
    assert len(first_rows(store, 10**6, 0)) == 50
    assert len(first_rows(store, 10**6, 0, held_out=True)) == 10


def test_steps_count_the_epochs_over_training_rows():
    assert steps_of(_store([30, 30], every=6), size=10, epochs=4.0) == 20
    assert steps_of(_store([5]), size=10, epochs=0.1) == 1


def test_what_cannot_be_is_refused():
    for arguments in ({"size": 0}, {"size": 2, "shuffle_rows": 0}, {"size": 2, "start_step": -1}):
        with pytest.raises(Invalid, match="must be 1 or more"):
            next(batches(_store([5]), seed=0, **arguments))
    with pytest.raises(Invalid, match="holds no activations of held-out documents"):
        next(batches(_store([5]), 2, 0, held_out=True))


@settings(deadline=None, max_examples=20)
@given(chunks=st.integers(8, 24), rows=st.integers(20, 60), together=st.integers(2, 8), seed=st.integers(0, 50))
def test_order_tells_nothing_of_the_corpus_beyond_the_group(chunks: int, rows: int, together: int, seed: int):
    """Groups come in random order and rows within one too: neither correlates with the place in the corpus."""
    store = _store([rows] * chunks)
    group = rows * together
    order = torch.cat(list(batches(store, rows, seed, steps=chunks, shuffle_rows=group)))[:, 0]
    for part in order.split(group):
        assert len(set((part // rows).tolist())) <= together
        if len(part) > 30:
            within = torch.corrcoef(torch.stack([torch.arange(len(part)).float(), part]))[0, 1]
            assert abs(within) < 5 / len(part) ** 0.5
    seeds = [next(batches(store, group, other, shuffle_rows=group))[:, 0] for other in range(seed, seed + 30)]
    means = torch.stack([part.mean() for part in seeds])
    spread = chunks * rows / 12**0.5 / together**0.5
    assert abs(means.mean() - (chunks * rows - 1) / 2) < 5 * spread / 30**0.5


def test_the_reader_is_ahead_by_one_group_and_stops_at_the_last_one_needed():
    store = _store([10] * 8)
    read: list[int] = []
    real = store.chunk
    store.chunk = lambda number, held_out=None: (read.append(number), real(number, held_out))[1]
    stream = batches(store, 5, 0, steps=8, shuffle_rows=20)
    next(stream)
    time.sleep(0.2)
    assert len(read) == 4
    assert len(list(stream)) == 7
    assert len(read) == 4


def test_a_torn_chunk_is_told_when_its_rows_are_due():
    store = _store([10] * 4)
    real, calls = store.chunk, iter(range(99))

    def torn(number: int, held_out: bool | None = None) -> Chunk:
        if next(calls) == 2:
            raise Corrupt("00002.safetensors is torn")
        return real(number, held_out)

    store.chunk = torn
    stream = batches(store, 10, 0, shuffle_rows=10)
    assert len(list(islice(stream, 2))) == 2
    with pytest.raises(Corrupt, match="00002"):
        next(stream)
