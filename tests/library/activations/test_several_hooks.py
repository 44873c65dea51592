"""Stores of several hooks, joined and pooled, captured and straight from the subject."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_subject import D_IN, FakeSubject

from saelab.activations.base import ActivationStore
from saelab.activations.capture import CaptureConfig, capture, capture_in_memory
from saelab.activations.forward import ForwardConfig
from saelab.activations.joined import JoinedStore
from saelab.activations.memory import MemoryStore
from saelab.activations.pooled import PooledStore
from saelab.activations.shuffle import batches, first_rows
from saelab.activations.stream import SubjectStore
from saelab.corpus import Corpus
from saelab.errors import Invalid

HOOKS = ("blocks.0.hook_resid_post", "blocks.10.hook_resid_post")
CONFIG = CaptureConfig(hooks=HOOKS, dtype="float32", batch_tokens=500, shard_windows=37)
FORWARD = ForwardConfig(dtype="float32", batch_tokens=500, shard_windows=37)


class Spiky(FakeSubject):
    """Massive at other tokens at each hook."""

    def activations(self, tokens, hooks):
        got = super().activations(tokens, hooks)
        letters = {HOOKS[0]: "y", HOOKS[1]: "g"}
        return {hook: x * torch.where(tokens[..., None] == ord(letters[hook]), 1e4, 1.0) for hook, x in got.items()}


@pytest.fixture
def stores(corpus: Corpus, folders: Callable[[str], Path]) -> list[ActivationStore]:
    return list(capture(Spiky(), corpus, CONFIG, folders).values())


def rows(store: ActivationStore, held_out: bool | None = None) -> torch.Tensor:
    return torch.cat([chunk.x for chunk in store.chunks(held_out)])


def places(store: ActivationStore) -> list[tuple[int, int]]:
    return [place for chunk in store.chunks() for place in zip(chunk.window.tolist(), chunk.position.tolist(), strict=True)]


def test_joined_rows_are_of_the_same_token_and_massive_at_no_hook(stores: list[ActivationStore]):
    joined = JoinedStore(stores)
    assert (joined.d_in, joined.widths) == (2 * D_IN, (D_IN, D_IN))
    assert places(joined) == sorted(set(places(stores[0])) & set(places(stores[1])))
    assert len(places(joined)) < min(len(places(store)) for store in stores)
    x = rows(joined)
    assert torch.equal(x[:, :2], x[:, D_IN : D_IN + 2])
    assert x[:, 2].unique().tolist() == [len(HOOKS[0])]
    assert x[:, D_IN + 2].unique().tolist() == [len(HOOKS[1])]


def test_the_rows_of_joined_and_pooled_stores_are_counted_right(stores: list[ActivationStore]):
    for store in (JoinedStore(stores), PooledStore(stores)):
        for held_out in (None, True, False):
            counts = store.chunk_rows(held_out)
            assert [len(store.chunk(number, held_out).x) for number in range(len(counts))] == list(counts)
        assert sum(store.chunk_rows(True)) + sum(store.chunk_rows(False)) == store.num_rows


def test_pooled_rows_keep_the_number_of_their_hook(stores: list[ActivationStore]):
    pooled = PooledStore(stores)
    chunks = list(pooled.chunks())
    assert pooled.d_in == D_IN
    hook = torch.cat([chunk.hook for chunk in chunks])
    x = torch.cat([chunk.x for chunk in chunks])
    for number, store in enumerate(stores):
        assert torch.equal(x[hook == number], rows(store))
    held = pooled.chunk(1, held_out=True)
    assert held.hook.tolist() == [1] * len(held.x)


def test_batches_work_on_both(stores: list[ActivationStore]):
    joined, pooled = JoinedStore(stores), PooledStore(stores)
    (batch,) = batches(joined, 300, seed=0, steps=1)
    assert batch.shape == (300, 2 * D_IN)
    assert torch.equal(batch[:, 1], batch[:, D_IN + 1])
    (batch,) = batches(pooled, 300, seed=0, steps=1)
    assert batch.shape == (300, D_IN)
    assert {len(hook) for hook in HOOKS} <= set(batch[:, 2].unique().tolist())


@pytest.mark.parametrize("together", [False, True], ids=["joined", "pooled"])
def test_the_subject_gives_the_rows_that_were_captured(stores: list[ActivationStore], corpus: Corpus, together: bool):
    subject = Spiky()
    stream = SubjectStore(subject, corpus, FORWARD, HOOKS, pooled=together)
    captured = PooledStore(stores) if together else JoinedStore(stores)
    for held_out in (None, True, False):
        one, other = rows(stream, held_out), rows(captured, held_out)
        assert sorted(map(tuple, one.tolist())) == sorted(map(tuple, other.tolist()))
        assert sum(stream.chunk_rows(held_out)) >= len(one)
    alone = SubjectStore(subject, corpus, FORWARD, HOOKS[:1], {HOOKS[0]: stores[0].max_norm})
    assert torch.equal(rows(alone), rows(stores[0]))
    assert places(alone) == places(stores[0])
    assert alone.max_norm == stores[0].max_norm


def test_a_stream_that_reads_ahead_gives_the_same_chunks(corpus: Corpus):
    stream = SubjectStore(Spiky(), corpus, FORWARD, HOOKS)
    stream._ahead = 2
    for held_out in (None, True):
        numbers = [number for number, count in enumerate(stream.chunk_rows(held_out)) if count]
        for number, chunk in zip(numbers, stream.chunks(held_out), strict=True):
            alone = stream.chunk(number, held_out)
            assert torch.equal(chunk.x, alone.x)
            assert torch.equal(chunk.window, alone.window)


def test_a_store_that_runs_the_subject_gives_samples_but_no_epochs(corpus: Corpus):
    stream = SubjectStore(Spiky(), corpus, FORWARD, HOOKS)
    sample = first_rows(stream, 50, seed=0)
    assert sample.shape == (50, 2 * D_IN)
    assert torch.equal(sample, first_rows(stream, 50, seed=0))
    with pytest.raises(Invalid, match="cannot be shuffled as a whole.*RingBuffer"):
        next(batches(stream, 10, seed=0))
    exact = SubjectStore(Spiky(), corpus, replace(FORWARD, massive=None), HOOKS)
    assert len(next(batches(exact, 10, seed=0))) == 10


def test_joined_streams_work_like_joined_stores(corpus: Corpus, stores: list[ActivationStore]):
    streams = [SubjectStore(Spiky(), corpus, FORWARD, (hook,)) for hook in HOOKS]
    assert torch.equal(rows(JoinedStore(streams)), rows(JoinedStore(stores)))


def test_stores_of_unlike_captures_are_refused_with_what_differs(stores: list[ActivationStore], corpus: Corpus, tmp_path: Path):
    other = capture(Spiky(), corpus, replace(CONFIG, hooks=HOOKS[:1], shard_windows=50), lambda hook: tmp_path / "other" / hook)[HOOKS[0]]
    for kind in (JoinedStore, PooledStore):
        with pytest.raises(Invalid, match=r"not of one capture:\n  shard_windows: 37, now 50"):
            kind([stores[0], other])
        with pytest.raises(Invalid, match="two hooks at least"):
            kind([stores[0]])
    wide = MemoryStore.of_vectors(torch.zeros(5, 3))
    wide.hook = "wide"
    with pytest.raises(Invalid, match="unlike width cannot be pooled: wide has 3, vectors has 4"):
        PooledStore([wide, MemoryStore.of_vectors(torch.zeros(5, 4))])


def test_every_row_can_be_traced_to_its_document_position_and_token(corpus: Corpus):
    store = capture_in_memory(FakeSubject(), corpus, replace(CONFIG, massive=None))[HOOKS[0]]
    for held_out in (True, False):
        chunk = next(store.chunks(held_out))
        for row in (0, len(chunk.x) - 1):
            window, position = int(chunk.window[row]), int(chunk.position[row])
            place = corpus.origin(window, position)
            assert (place.held_out, place.token, position) == (held_out, int(chunk.x[row, 0]), int(chunk.x[row, 1]))
            number = int(corpus.window_document[window])
            assert (place.document, place.domain) == (corpus.document(number).key, corpus.document(number).domain)
            assert place.position == int(corpus.window_start[window]) + position
            assert int(corpus.document_tokens(number)[place.position]) == place.token
