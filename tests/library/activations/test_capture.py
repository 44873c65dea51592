"""Capture: what is written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_subject import D_IN, FakeSubject

from saelab.activations import disk
from saelab.activations.capture import CaptureConfig, capture, capture_in_memory
from saelab.activations.disk import DiskStore
from saelab.corpus import Corpus, TokenPolicy, read_corpus
from saelab.errors import Conflict, Corrupt, Invalid
from saelab.texts.toy import ToyTexts

HOOKS = ("blocks.0.hook_resid_post", "blocks.10.hook_resid_post")
CONFIG = CaptureConfig(hooks=HOOKS, dtype="float32", batch_tokens=500, shard_windows=37, massive=None)
Folders = Callable[[str], Path]


def test_rows_are_those_that_count_in_corpus_order_with_their_own_activations(subject: FakeSubject, corpus: Corpus, folders: Folders):
    stores = capture(subject, corpus, CONFIG, folders)
    tokens, counted = corpus.windows(np.arange(corpus.num_windows))
    window, position = np.nonzero(counted)
    for hook, store in stores.items():
        chunks = list(store.chunks())
        assert torch.cat([chunk.window for chunk in chunks]).tolist() == window.tolist()
        assert torch.cat([chunk.position for chunk in chunks]).tolist() == position.tolist()
        x = torch.cat([chunk.x for chunk in chunks])
        assert x[:, 0].tolist() == tokens[counted].tolist()
        assert x[:, 1].tolist() == position.tolist()
        assert x[:, 2].unique().tolist() == [len(hook)]
        assert (store.hook, store.d_in, store.num_rows, store.policy) == (hook, D_IN, counted.sum(), corpus.policy)


def test_one_forward_pass_serves_all_hooks_and_pads_little(subject: FakeSubject, corpus: Corpus, folders: Folders):
    capture(subject, corpus, CONFIG, folders)
    padded = sum(rows * width for rows, width in subject.shapes)
    assert all(rows * width <= CONFIG.batch_tokens for rows, width in subject.shapes)
    assert padded <= 1.1 * corpus.window_length.sum()
    assert subject.passes < 2 * padded / CONFIG.batch_tokens


def test_memory_and_disk_hold_the_same(subject: FakeSubject, corpus: Corpus, folders: Folders):
    on_disk, in_memory = capture(subject, corpus, CONFIG, folders), capture_in_memory(subject, corpus, CONFIG)
    for hook in HOOKS:
        for held_out in (None, True, False):
            assert on_disk[hook].chunk_rows(held_out) == in_memory[hook].chunk_rows(held_out)
            for one, other in zip(on_disk[hook].chunks(held_out), in_memory[hook].chunks(held_out), strict=True):
                assert torch.equal(one.x, other.x)
                assert torch.equal(one.window, other.window)
                assert torch.equal(one.position, other.position)


def test_held_out_rows_are_those_of_held_out_documents(subject: FakeSubject, corpus: Corpus, folders: Folders):
    store = capture(subject, corpus, CONFIG, folders)[HOOKS[0]]
    assert 0 < sum(store.chunk_rows(True)) < store.num_rows
    for held_out in (True, False):
        windows = torch.cat([chunk.window for chunk in store.chunks(held_out)])
        assert (corpus.window_held_out[windows.numpy()] == held_out).all()
        assert len(windows) == sum(store.chunk_rows(held_out))


def test_finished_shards_are_not_captured_again(corpus: Corpus, folders: Folders):
    first, second = FakeSubject(), FakeSubject()
    capture(first, corpus, CONFIG, folders)
    for hook in HOOKS:
        (folders(hook) / "index.json").unlink()
    disk.shard_file(folders(HOOKS[0]), 2).unlink()
    capture(second, corpus, CONFIG, folders)
    assert 0 < second.passes < first.passes / 5


def test_shards_of_another_capture_are_never_mixed(subject: FakeSubject, corpus: Corpus, folders: Folders, tmp_path: Path):
    capture(subject, corpus, CONFIG, folders)
    other = CaptureConfig(hooks=HOOKS, dtype="bfloat16", batch_tokens=500, shard_windows=37, massive=None)
    with pytest.raises(Conflict, match=r"another capture:\n  dtype: 'float32', now 'bfloat16'"):
        capture(subject, corpus, other, folders)
    policy = TokenPolicy(context=48, special_ids=())
    read = read_corpus(ToyTexts(num_documents=24), lambda text: [ord(letter) for letter in text], policy, tmp_path / "corpus")
    with pytest.raises(Conflict, match=r"policy.special_ids"):
        capture(subject, read, CONFIG, folders)


def test_a_torn_shard_stops_a_second_run_with_its_name(subject: FakeSubject, corpus: Corpus, folders: Folders):
    capture(subject, corpus, CONFIG, folders)
    file = disk.shard_file(folders(HOOKS[1]), 1)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(Corrupt, match=r"00001.safetensors is torn.*run saelab capture again"):
        capture(subject, corpus, CONFIG, folders)
    file.unlink()
    assert capture(subject, corpus, CONFIG, folders)[HOOKS[1]].chunk(1).x.shape[1] == D_IN


def test_a_second_run_does_not_bless_a_shard_that_was_changed(subject: FakeSubject, corpus: Corpus, folders: Folders):
    capture(subject, corpus, CONFIG, folders)
    file = disk.shard_file(folders(HOOKS[0]), 0)
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)
    store: DiskStore = capture(subject, corpus, CONFIG, folders)[HOOKS[0]]
    with pytest.raises(Corrupt, match=r"00000.safetensors is torn: its checksum"):
        store.chunk(0)


def test_configs_that_cannot_be_are_refused(subject: FakeSubject, corpus: Corpus, folders: Folders):
    for hooks in ((), (HOOKS[0], HOOKS[0])):
        with pytest.raises(Invalid, match="hooks must name"):
            capture(subject, corpus, CaptureConfig(hooks=hooks), folders)
    with pytest.raises(Invalid, match="must be 1 or more"):
        capture_in_memory(subject, corpus, CaptureConfig(hooks=HOOKS, batch_tokens=0))


def test_a_window_longer_than_the_budget_is_a_batch_of_its_own(subject: FakeSubject, corpus: Corpus):
    store = capture_in_memory(subject, corpus, CaptureConfig(hooks=HOOKS[:1], batch_tokens=1, massive=None))[HOOKS[0]]
    assert subject.passes == corpus.num_windows
    assert store.num_rows == corpus.window_rows.sum()


class Broken(FakeSubject):
    """Gives a number that is not finite wherever a letter stands."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def activations(self, tokens, hooks):
        got = super().activations(tokens, hooks)
        return {hook: torch.where(tokens[..., None] == ord("w"), self.number, x) for hook, x in got.items()}


@pytest.mark.parametrize("massive", [None, 6.0])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite_stops_with_its_origin(corpus: Corpus, folders: Folders, number: float, massive: float | None):
    tokens, counted = corpus.windows(np.arange(corpus.num_windows))
    windows, positions = np.nonzero(counted & (tokens == ord("w")))
    key = corpus.document(corpus.window_document[windows[0]]).key
    at = f"{corpus.window_start[windows[0]] + positions[0]:,}"
    place = rf"document '{key}' .*, token {at}, id {ord('w')} \(text\)"
    with pytest.raises(Invalid, match=rf"fake gives an activation at {HOOKS[0]} that is not finite: {place}"):
        capture(Broken(number), corpus, replace(CONFIG, massive=massive), folders)
    with pytest.raises(Invalid, match="not finite"):
        capture_in_memory(Broken(number), corpus, replace(CONFIG, massive=massive))
