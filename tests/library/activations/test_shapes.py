"""Shapes of recorded passes: few, little padding, and the same activations."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from fake_subject import FakeSubject
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_subject
from torch import Tensor

from saelab.activations import forward
from saelab.activations.buffer import BufferConfig, RingBuffer
from saelab.activations.capture import CaptureConfig, capture_in_memory
from saelab.activations.forward import Forward, ForwardConfig
from saelab.activations.shapes import batches, padded
from saelab.activations.stream import SubjectStore
from saelab.corpus import Corpus, DocumentInfo, TokenPolicy

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
_lengths = st.lists(st.integers(8, 48), min_size=1, max_size=80)


class Taped(FakeSubject):
    """Stands for recorded passes: a plain call, whose result the next one overwrites."""

    def recorded(self, hooks: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]]:
        last: list[Tensor] = []

        def run(tokens: Tensor) -> dict[str, Tensor]:
            for x in last:
                x.fill_(float("nan"))
            with torch.inference_mode(False):
                got = {hook: x.clone() for hook, x in self.activations(tokens, hooks).items()}
            last[:] = got.values()
            return got

        return run


@pytest.fixture
def worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU with a long corpus, but that nothing is compiled."""
    monkeypatch.setattr(forward, "worth_compiling", lambda *_: True)


@settings(deadline=None, max_examples=60)
@given(lengths=_lengths, batch_tokens=st.integers(1, 1000))
def test_every_window_is_in_one_pass_and_shapes_are_few_within_the_budget_and_padded_little(lengths: list[int], batch_tokens: int):
    given_lengths = np.array(lengths)
    for longest in (None, 48):
        groups = list(batches(given_lengths, batch_tokens, longest))
        assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
        for group in groups:
            shape = (len(group), int(given_lengths[group].max()))
            if longest:
                shape = padded(np.zeros(shape), batch_tokens, longest).shape
                assert shape[1] % 6 == 0
                most = max(1, batch_tokens // shape[1])
                assert shape[0] == most or shape[0] % -(-most // 8) == 0
                assert shape[0] * shape[1] - given_lengths[group].sum() <= batch_tokens / 8 + (batch_tokens + 8 * 48) / 8
            assert shape[0] * shape[1] <= max(batch_tokens, shape[1])


def test_padding_keeps_what_is_there():
    x = np.arange(30).reshape(5, 6) + 1
    filled = padded(x, 100, 8)
    assert filled.shape == (6, 6)
    assert (filled[:5] == x).all()
    assert not filled[5:].any()


@pytest.mark.parametrize("batch_tokens", [100, 500, 3000])
def test_recorded_passes_give_the_same_rows_from_few_shapes(worth: None, corpus: Corpus, batch_tokens: int):
    config = ForwardConfig(dtype="float32", batch_tokens=batch_tokens, massive=None)
    taped = Taped()
    recorded, plain = Forward(taped, corpus, config, HOOKS), Forward(FakeSubject(), corpus, config, HOOKS)
    plain._recorded = lambda _hooks: None
    plain._run = plain.subject.activations
    noise = np.random.default_rng(0)
    for count in (1, 7, 60, corpus.num_windows):
        windows = noise.permutation(corpus.num_windows)[:count]
        for hooks in (None, HOOKS[1:]):
            one, other = recorded.on(windows, hooks), plain.on(windows, hooks)
            for hook in other:
                (chunk, held_out), (expected, expected_held_out) = one[hook], other[hook]
                assert torch.equal(chunk.x, expected.x)
                assert torch.equal(chunk.window, expected.window)
                assert torch.equal(chunk.position, expected.position)
                assert torch.equal(held_out, expected_held_out)
    assert {length % 6 for _, length in taped.shapes} == {0}
    assert len(set(taped.shapes)) <= 64


def test_capture_and_training_batches_are_the_same_through_recorded_passes(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    config = CaptureConfig(hooks=HOOKS, dtype="float32", batch_tokens=700, shard_windows=20)
    stream = BufferConfig(dtype="float32", batch_tokens=700, shard_windows=20)
    found = []
    for worth in (False, True):
        monkeypatch.setattr(forward, "worth_compiling", lambda *_, worth=worth: worth)
        subject = Taped() if worth else FakeSubject()
        stores = capture_in_memory(subject, corpus, config)
        given_batches = RingBuffer(SubjectStore(subject, corpus, stream, HOOKS[:1]), 800, 64, 0)(0)
        found.append((stores, [next(given_batches) for _ in range(20)]))
    (plain, batches_plain), (recorded, batches_recorded) = found
    for hook in HOOKS:
        for one, other in zip(plain[hook].chunks(), recorded[hook].chunks(), strict=True):
            assert torch.equal(one.x, other.x)
    assert all(torch.equal(one, other) for one, other in zip(batches_plain, batches_recorded, strict=True))


def test_a_model_gives_windows_the_same_activations_among_padding(worth: None, monkeypatch: pytest.MonkeyPatch):
    subject = make_subject("llama")
    tokens = np.random.default_rng(0).integers(2, 50, 700).astype(np.int32)
    edges = np.array([0, 200, 215, 300, 450, 460, 700])
    infos = [DocumentInfo(key=str(i), domain="text", split="explain", held_out=False) for i in range(len(edges) - 1)]
    corpus = Corpus(TokenPolicy(context=24, prepend_bos=False), infos, tokens, edges)
    monkeypatch.setattr(subject, "recorded", lambda hooks: lambda read: subject.activations(read, hooks))
    config = ForwardConfig(dtype="float32", batch_tokens=240, massive=None)
    every = np.arange(corpus.num_windows)
    found = Forward(subject, corpus, config, HOOKS).on(every)
    for hook in HOOKS:
        rows = [subject.activations(torch.from_numpy(corpus.windows(every[i : i + 1])[0]), [hook])[hook][0] for i in every]
        expected = torch.cat([x[torch.from_numpy(corpus.counts(i))] for i, x in zip(every, rows, strict=True)])
        torch.testing.assert_close(found[hook][0].x, expected, atol=1e-5, rtol=1e-4)
