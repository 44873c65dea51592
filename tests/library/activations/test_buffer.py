"""The ring buffer: what comes out of it, and that it goes on exactly where it was."""

from itertools import islice

import numpy as np
import pytest
import torch
from fake_subject import D_IN, FakeSubject
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.activations import buffer
from saelab.activations.base import Resumable
from saelab.activations.buffer import BufferConfig, RingBuffer, free_memory
from saelab.activations.stream import SubjectStore
from saelab.checkpoint import CHECKPOINT_FILE
from saelab.corpus import Corpus
from saelab.errors import Conflict, Invalid
from saelab.saes.topk import TopK
from saelab.sweep import BATCHES_FILE
from saelab.training import TrainConfig, Trainer

HOOK = "blocks.0.hook_resid_post"
ROWS, SIZE = 2000, 64


class Spiky(FakeSubject):
    """Massive wherever the letter y stands."""

    def activations(self, tokens, hooks):
        got = super().activations(tokens, hooks)
        return {hook: x * torch.where(tokens[..., None] == ord("y"), 1e4, 1.0) for hook, x in got.items()}


class Killed(Exception):
    """Stands for whatever ends a process."""


def kill_at(trainer: Trainer, step: int) -> None:
    real = trainer.step

    def stepped(x: torch.Tensor):
        if trainer.steps_done == step:
            raise Killed
        return real(x)

    trainer.step = stepped


def ring(corpus: Corpus, seed: int = 0, rows: int = ROWS, hooks: tuple[str, ...] = (HOOK,), **settings) -> RingBuffer:
    config = BufferConfig(dtype="float32", batch_tokens=1000, shard_windows=16, **settings)
    return RingBuffer(SubjectStore(Spiky(), corpus, config, hooks), rows, SIZE, seed)


def taken(stream: RingBuffer, steps: int, start: int = 0) -> list[torch.Tensor]:
    return list(islice(stream(start), steps))


def all_rows(corpus: Corpus, held_out: bool) -> set[tuple[int, int]]:
    """Token and position of every row of one kind."""
    windows = np.flatnonzero(corpus.window_held_out == held_out)
    tokens, counted = corpus.windows(windows)
    position = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    return set(zip(tokens[counted].tolist(), position[counted].tolist(), strict=True))


def test_it_is_resumable(corpus: Corpus):
    assert isinstance(ring(corpus), Resumable)


def test_an_epoch_gives_every_training_row_and_a_row_leaves_the_buffer_once(corpus: Corpus):
    stream = ring(corpus, massive=None)
    total = stream.store.need_rows(False)
    steps = 3 * total // SIZE
    out = torch.cat(taken(stream, steps))
    inside, coming = stream.state()["x"], stream.state()["coming"]
    read = torch.cat([stream.store.shuffled(0, portion).x for portion in range(int(stream.state()["place"][1]))])
    back = torch.cat([out, inside, coming])
    assert len(back) == len(read)
    assert sorted(map(tuple, back[:, :2].tolist())) == sorted(map(tuple, read[:, :2].tolist()))
    per_epoch = -(-int((~corpus.window_held_out).sum()) // 16)
    epochs = [torch.cat([stream.store.shuffled(0, epoch * per_epoch + part).x for part in range(per_epoch)]) for epoch in (0, 1)]
    assert [len(rows) for rows in epochs] == [total, total]
    assert not torch.equal(*epochs)
    assert sorted(map(tuple, epochs[0].tolist())) == sorted(map(tuple, epochs[1].tolist()))


def test_held_out_and_massive_rows_never_come(corpus: Corpus):
    stream = ring(corpus)
    rows = torch.cat(taken(stream, 100))
    assert stream.store.max_norm is not None
    assert rows.norm(dim=-1).max() <= stream.store.max_norm < 1e4
    came = set(map(tuple, rows[:, :2].long().tolist()))
    train, held_out = (all_rows(corpus, kind) for kind in (False, True))
    assert came <= train
    assert {token for token, _ in train} - {token for token, _ in came} >= {ord("y")}
    assert held_out - train
    assert not came & (held_out - train)


def test_a_batch_has_the_size_and_float32(corpus: Corpus):
    assert {(tuple(batch.shape), batch.dtype) for batch in taken(ring(corpus), 20)} == {((SIZE, D_IN), torch.float32)}


def test_rows_stay_for_as_many_batches_as_the_buffer_is_larger_than_a_batch(corpus: Corpus):
    stream = ring(corpus)
    of_round = stream.rows // SIZE
    born = torch.zeros(stream.rows)
    ages = []
    for number in range(400 // of_round):
        order = stream._order_of(number)
        assert sorted(order.tolist()) == list(range(stream.rows))
        for first, slots in enumerate(order[: of_round * SIZE].split(SIZE)):
            ages.append(number * of_round + first - born[slots])
            born[slots] = float(number * of_round + first)
    assert torch.cat(ages[200:]).mean() == pytest.approx(stream.rows / SIZE, rel=0.1)
    assert not torch.equal(stream._order_of(0), stream._order_of(1))


def test_batches_are_those_that_one_at_a_time_would_be(corpus: Corpus):
    stream, one = ring(corpus), ring(corpus)
    several = taken(stream, 70)
    single = one(0)
    for step, batch in enumerate(several):
        assert torch.equal(next(single), batch)
        if step % 3 == 0:
            before = one.state()
            assert not one._taken
            assert before["place"][0] == step + 1
    assert all(torch.equal(stream.state()[name], one.state()[name]) for name in ("x", "coming"))


@settings(deadline=None, max_examples=12)
@given(kills=st.lists(st.integers(0, 12), min_size=1, max_size=4), seed=st.integers(0, 3))
def test_a_stream_taken_up_from_its_state_is_the_same_stream(corpus: Corpus, kills: list[int], seed: int):
    whole = taken(ring(corpus, seed), sum(kills) + len(kills) + 2)
    found: list[torch.Tensor] = []
    state = None
    for steps in kills:
        stream = ring(corpus, seed)
        if state is not None:
            stream.load(state)
        found += taken(stream, steps + 1, len(found))
        state = {name: tensor.clone() for name, tensor in stream.state().items()}
    last = ring(corpus, seed)
    last.load(state)
    found += taken(last, 2, len(found))
    assert all(torch.equal(one, other) for one, other in zip(whole, found, strict=True))


def test_without_its_state_a_stream_goes_through_all_steps_again(corpus: Corpus):
    whole = taken(ring(corpus), 9)
    stream = ring(corpus)
    assert torch.equal(taken(stream, 1, 8)[0], whole[8])
    assert torch.equal(taken(stream, 1, 3)[0], whole[3])
    assert torch.equal(taken(stream, 1, 4)[0], whole[4])


def test_seeds_differ(corpus: Corpus):
    assert not torch.equal(taken(ring(corpus, 0), 1)[0], taken(ring(corpus, 1), 1)[0])


def test_going_on_runs_the_subject_on_no_window_again(corpus: Corpus):
    stream = ring(corpus)
    taken(stream, 3)
    again = ring(corpus)
    again.load(stream.state())
    subject = again.store._forward.subject
    before = subject.passes
    taken(again, 1, 3)
    assert subject.passes - before <= 2


def test_a_training_that_was_killed_ends_with_the_same_bits(corpus: Corpus, tmp_path):
    config = TrainConfig(steps=12, batch_size=SIZE, sample=128, checkpoint_every=0.0, log_every=4, lr=1e-3)

    def trainer(name: str) -> Trainer:
        return Trainer(TopK(D_IN, TopK.Config(d_sae=24, k=3)), config, tmp_path / name)

    trainer("whole").fit(ring(corpus))
    killed = trainer("killed")
    kill_at(killed, 7)
    with pytest.raises(Killed):
        killed.fit(ring(corpus))
    assert (tmp_path / "killed" / CHECKPOINT_FILE).is_file()
    assert (tmp_path / "killed" / BATCHES_FILE).stat().st_size > ROWS * D_IN * 4
    trainer("killed").fit(ring(corpus))
    assert sorted(file.name for file in (tmp_path / "killed").iterdir()) == ["cfg.json", "log.jsonl", "sae_weights.safetensors"]
    assert (tmp_path / "killed" / "sae_weights.safetensors").read_bytes() == (tmp_path / "whole" / "sae_weights.safetensors").read_bytes()


def test_a_checkpoint_of_a_stream_is_no_checkpoint_of_captured_activations(corpus: Corpus, tmp_path):
    config = TrainConfig(steps=6, batch_size=SIZE, sample=64, checkpoint_every=0.0)
    batches = taken(ring(corpus), 6)
    for first, second in ((ring(corpus), lambda step: iter(batches[step:])), (lambda step: iter(batches[step:]), ring(corpus))):
        folder = tmp_path / str(type(first))
        trainer = Trainer(TopK(D_IN, TopK.Config(d_sae=24, k=3)), config, folder)
        kill_at(trainer, 3)
        with pytest.raises(Killed):
            trainer.fit(first)
        with pytest.raises(Conflict, match=r"(?s)checkpoint\.safetensors was made with another config.*straight_from_subject: "):
            Trainer(TopK(D_IN, TopK.Config(d_sae=24, k=3)), config, folder).fit(second)


def test_a_state_of_another_buffer_is_refused(corpus: Corpus):
    stream = ring(corpus)
    taken(stream, 1)
    with pytest.raises(Conflict, match=r"a buffer of shape \[2000, 6\].*where \[1000, 6\]"):
        ring(corpus, rows=1000).load(stream.state())


def test_too_little_memory_says_how_much_is_needed_and_free(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(buffer, "free_memory", lambda device: 2**15)
    with pytest.raises(Invalid, match=r"2,000 activations of 24 bytes need 0\.00 GiB on cpu.*Give 1,228 rows or fewer"):
        ring(corpus)


def test_free_memory_is_what_the_system_tells():
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


def test_a_buffer_holds_no_more_than_the_training_rows_and_no_less_than_a_batch(corpus: Corpus):
    stream = ring(corpus, rows=10**9)
    assert stream.rows == stream.store.need_rows(False)
    with pytest.raises(Invalid, match="A batch of 64 rows cannot be drawn from a buffer of 63"):
        ring(corpus, rows=63)
