"""Stores, on disk and in memory."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_subject import FakeSubject
from safetensors import safe_open
from safetensors.torch import load, save

from saelab.activations.base import Chunk
from saelab.activations.capture import CaptureConfig, capture
from saelab.activations.disk import DiskStore, shard_file
from saelab.activations.memory import MemoryStore
from saelab.corpus import Corpus, TokenPolicy
from saelab.errors import Corrupt, Invalid, NotFound
from saelab.testing import planted

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture
def folder(subject: FakeSubject, corpus: Corpus, folders: Callable[[str], Path]) -> Path:
    capture(subject, corpus, CaptureConfig(hooks=(HOOK,), shard_windows=64), folders)
    return folders(HOOK)


def test_an_opened_store_keeps_bfloat16_and_int64_places(folder: Path):
    chunk = DiskStore(folder).chunk(0)
    assert (chunk.x.dtype, chunk.window.dtype, chunk.position.dtype) == (torch.bfloat16, torch.int64, torch.int64)


def test_the_index_counts_what_the_shards_hold(folder: Path):
    store = DiskStore(folder)
    for held_out in (None, True, False):
        assert [len(store.chunk(number, held_out).x) for number in range(len(store.index.shards))] == list(store.chunk_rows(held_out))
    assert store.num_rows == sum(store.chunk_rows(True)) + sum(store.chunk_rows(False))


def test_shards_are_what_safetensors_itself_would_write(folder: Path):
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
            ours, theirs = file.read_bytes(), save(tensors, opened.metadata())
        assert len(ours) == len(theirs)
        assert ours[-len(tensors["held_out"]) :] == theirs[-len(tensors["held_out"]) :]
        assert all(torch.equal(tensors[name], tensor) for name, tensor in load(ours).items())


def test_a_part_is_a_chunk_that_is_not_copied_yet(folder: Path):
    store = DiskStore(folder)
    for held_out in (None, True, False):
        for number in range(len(store.index.shards)):
            x, kept = store.part(number, held_out)
            assert torch.equal(x if kept is None else x[kept], store.chunk(number, held_out).x)


def test_chunks_begin_where_they_are_told_to(folder: Path):
    store = DiskStore(folder)
    whole, rest = list(store.chunks(held_out=False)), list(store.chunks(held_out=False, start=2))
    assert len(rest) == len(whole) - 2
    assert torch.equal(rest[0].window, whole[2].window)


def test_a_folder_without_a_finished_store_is_told_with_the_command_that_makes_one(tmp_path: Path):
    with pytest.raises(NotFound, match=f"Run: saelab capture {tmp_path}"):
        DiskStore(tmp_path / "activations" / HOOK)


def test_a_missing_or_shortened_shard_is_named_when_the_store_is_opened(folder: Path):
    file = shard_file(folder, 1)
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(Corrupt, match=rf"00001.safetensors is torn: it has {len(content) - 1:,} bytes, where {len(content):,} were"):
        DiskStore(folder)
    file.unlink()
    with pytest.raises(Corrupt, match="it has 0 bytes"):
        DiskStore(folder)


def test_a_flipped_bit_is_found_when_the_shard_is_first_read(folder: Path):
    file = shard_file(folder, 1)
    content = bytearray(file.read_bytes())
    content[-1000] ^= 4
    file.write_bytes(content)
    store = DiskStore(folder)
    assert len(store.chunk(0).x)
    with pytest.raises(Corrupt, match=r"00001.safetensors is torn: its checksum"):
        store.chunk(1)


def test_an_index_with_a_typo_is_refused_with_its_place(folder: Path):
    file = folder / "index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "d_inn": 3}))
    with pytest.raises(Corrupt, match=r"index.json: not a valid StoreIndex.\n  d_inn: is not a known field"):
        DiskStore(folder)


def test_vectors_without_a_subject_make_a_store():
    x, _ = planted(50, seed=0)
    held_out = torch.arange(50) % 5 == 0
    store = MemoryStore.of_vectors(x, held_out)
    assert (store.num_rows, store.chunk_rows(True), store.chunk_rows(False)) == (50, (10,), (40,))
    assert torch.equal(next(store.chunks(held_out=True)).x, x[::5])
    assert MemoryStore.of_vectors(x).chunk_rows(True) == (0,)
    assert list(MemoryStore.of_vectors(x).chunks(held_out=True)) == []


def test_a_store_of_nothing_is_refused():
    with pytest.raises(Invalid, match="needs one chunk"):
        MemoryStore(HOOK, TokenPolicy(), [], [])
    empty = Chunk(x=torch.zeros(0, 3), window=torch.zeros(0).long(), position=torch.zeros(0).long())
    store = MemoryStore(HOOK, TokenPolicy(), [empty], [torch.zeros(0, dtype=torch.bool)])
    with pytest.raises(Invalid, match="holds no activations of documents to train on"):
        store.need_rows(False)
