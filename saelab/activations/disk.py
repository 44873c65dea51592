"""Activations on disk.

A store is a folder of shards, `00000.safetensors`, `00001.safetensors`, ...: shard i covers `shard_windows` windows of the corpus from
window `i * shard_windows`. A shard holds `x` [row d_in] (bfloat16 or float32), `window` and `position` [row] int32, and `held_out` [row]
uint8, in corpus order; its metadata say what it is part of. `index.json` comes last, with rows, size and checksum of each shard.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saelab.activations.base import ActivationStore, Chunk, StoreDtype, part_of
from saelab.corpus import TokenPolicy
from saelab.errors import Conflict, Corrupt, NotFound
from saelab.run import differences, read_saved, whole, write_atomically
from saelab.values import from_json, to_dict, to_json, value

FORMAT = 1
_CHECKED_BYTES = 2**22
_CODES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.int32: "I32", torch.uint8: "U8"}
_Tensors = dict[str, Tensor]


@value
class StorePlan:
    """What a store holds; every shard carries it, so that shards of two captures are never mixed."""

    format: int = FORMAT
    """Version of the layout."""
    subject: str
    """Name of the subject."""
    hook: str
    """Where in it the activations were taken."""
    dtype: StoreDtype
    """What they are stored as."""
    policy: TokenPolicy
    """How the windows were made, and which positions count."""
    max_norm: float | None
    """Norm above which an activation is massive and left out."""
    corpus: str
    """Hash of the corpus."""
    shard_windows: int
    """Windows that a shard covers."""


@value
class ShardFacts:
    """One shard."""

    rows: int
    """Activations in it."""
    held_out_rows: int
    """Those of held-out documents."""
    num_bytes: int
    """Size of its file."""
    crc32: int
    """Checksum of its file."""


@value
class StoreIndex:
    """The table of a finished store."""

    plan: StorePlan
    """What it holds."""
    d_in: int
    """Width of an activation."""
    shards: tuple[ShardFacts, ...]
    """The shards in order."""


class DiskStore(ActivationStore):
    """A finished store, opened to read by memory map; a shard's checksum is tested when it is first read.

    Arguments:
    - `folder`: the store's folder.

    Raises `NotFound` where no finished store is, `Corrupt` naming a shard that is missing or has another size than was written.
    """

    def __init__(self, folder: Path) -> None:
        file = folder / "index.json"
        if not file.is_file():
            raise NotFound(f"There are no finished activations in {folder}. Run: saelab capture {folder.parent.parent}")
        self.folder = folder
        self.index = read_saved(StoreIndex, file)
        plan = self.index.plan
        self.hook, self.policy, self.max_norm, self.d_in = plan.hook, plan.policy, plan.max_norm, self.index.d_in
        self._tested: set[int] = set()
        for number, facts in enumerate(self.index.shards):
            shard = shard_file(folder, number)
            size = shard.stat().st_size if shard.is_file() else 0
            if size != facts.num_bytes:
                raise _torn(shard, f"it has {size:,} bytes, where {facts.num_bytes:,} were written")

    def chunk_rows(self, held_out: bool | None = None) -> tuple[int, ...]:
        """Rows of each shard."""
        return self._rows[held_out]

    @cached_property
    def _rows(self) -> dict[bool | None, tuple[int, ...]]:
        shards = self.index.shards
        return {
            None: tuple(shard.rows for shard in shards),
            True: tuple(shard.held_out_rows for shard in shards),
            False: tuple(shard.rows - shard.held_out_rows for shard in shards),
        }

    def chunk(self, number: int, held_out: bool | None = None) -> Chunk:
        """One shard, or its part of one kind. Raises `Corrupt` naming a shard that is torn."""
        self._test(number)
        return self._part(number, held_out)

    def part(self, number: int, held_out: bool | None = None) -> tuple[Float[Tensor, "row d_in"], Int[Tensor, " kept"] | None]:
        """The activations of a shard as they lie in its file, mapped and not yet read, and which rows are of one kind."""
        self._test(number)
        tensors = _read(shard_file(self.folder, number))[1]
        return tensors["x"], None if held_out is None else (tensors["held_out"] == held_out).nonzero()[:, 0]

    def places(self, number: int, held_out: bool | None = None) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
        """Window and position of each row of a shard; the activations are not read. Raises `Corrupt` naming a shard that is torn."""
        chunk = self._part(number, held_out)
        return chunk.window, chunk.position

    def described(self) -> dict[str, Any]:
        """What stores of one capture share: the whole plan but for the hook and its limit."""
        return {**to_dict(self.index.plan), "hook": None, "max_norm": None}

    def _part(self, number: int, held_out: bool | None) -> Chunk:
        tensors = _read(shard_file(self.folder, number))[1]
        chunk = Chunk(x=tensors["x"], window=tensors["window"].long(), position=tensors["position"].long())
        return part_of(chunk, tensors["held_out"].bool(), held_out)

    def _test(self, number: int) -> None:
        """Tests the checksum of a shard, once. Raises `Corrupt` naming one that is torn."""
        file = shard_file(self.folder, number)
        if number not in self._tested:
            if _checksum(file) != self.index.shards[number].crc32:
                raise _torn(file, "its checksum is not the one that was written")
            self._tested.add(number)


class StoreWriter:
    """Writes a store shard by shard; shards that an earlier writer with the same plan finished are kept.

    Arguments:
    - `folder`: the store's folder; it need not exist.
    - `plan`: what the store shall hold.
    """

    def __init__(self, folder: Path, plan: StorePlan) -> None:
        self.folder, self.plan = folder, plan
        self._written: dict[int, ShardFacts] = {}

    def has(self, number: int) -> bool:
        """Whether a shard is there and whole. Raises `Conflict` where it belongs to another capture, `Corrupt` where it is torn."""
        file = shard_file(self.folder, number)
        if not file.is_file():
            return False
        changed = differences(to_dict(_read(file)[0]), to_dict(self.plan))
        if changed:
            lines = "\n".join(f"  {line}" for line in changed)
            raise Conflict(f"{self.folder} holds activations of another capture:\n{lines}\nDelete the folder, or use another run folder.")
        return True

    def write(self, number: int, chunk: Chunk, is_held_out: Bool[Tensor, " row"]) -> None:
        """Writes a shard, whole or not at all. Raises `Conflict` where it cannot be written, as on a full disk."""
        tensors: _Tensors = {
            "window": chunk.window.int(),
            "position": chunk.position.int(),
            "x": chunk.x.to(getattr(torch, self.plan.dtype)).contiguous(),
            "held_out": is_held_out.to(torch.uint8),
        }
        parts = _file_parts(tensors, {"plan": json.dumps(to_dict(self.plan))})
        with whole(shard_file(self.folder, number)) as half:
            write_parts(half, parts)
        self._written[number] = ShardFacts(
            rows=len(chunk.x),
            held_out_rows=int(is_held_out.sum()),
            num_bytes=sum(len(part) for part in parts),
            crc32=reduce(lambda checksum, part: zlib.crc32(part, checksum), parts, 0),
        )

    def finish(self, num_shards: int) -> DiskStore:
        """Writes the index of all shards, the last act, and opens the store. Raises `Corrupt` naming a torn shard.

        An index that is there stays: it knows what the shards were when they were written.
        """
        file = self.folder / "index.json"
        if file.is_file() and (old := read_saved(StoreIndex, file)).plan == self.plan:
            assert len(old.shards) == num_shards, "the same plan has the same shards"
            return DiskStore(self.folder)
        shards = [self._written.get(number) or _facts(shard_file(self.folder, number)) for number in range(num_shards)]
        d_in = _read(shard_file(self.folder, 0))[1]["x"].shape[1]
        index = StoreIndex(plan=self.plan, d_in=d_in, shards=tuple(shards))
        write_atomically(file, to_json(index))
        return DiskStore(self.folder)


def shard_file(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"{number:05d}.safetensors"


def _file_parts(tensors: _Tensors, metadata: dict[str, str]) -> list[memoryview]:
    """A safetensors file as its header and the memory of its tensors, the widest numbers first so that all are aligned.

    `safetensors.torch.save` copies them twice and holds up the other threads meanwhile; `save_file` leaves a file behind when it is killed.
    """
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, x in tensors.items():
        begin, end = end, end + x.nbytes
        entries[name] = {"dtype": _CODES[x.dtype], "shape": list(x.shape), "data_offsets": [begin, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    memory = [x.flatten().view(torch.uint8).numpy().data for x in tensors.values()]
    return [memoryview(struct.pack("<Q", len(header)) + header), *memory]


def write_parts(file: Path, parts: Sequence[memoryview]) -> None:
    """Writes parts one after another."""
    with file.open("wb", buffering=0) as opened:
        for part in parts:
            while part:
                part = part[opened.write(part) :]


def _facts(file: Path) -> ShardFacts:
    """The facts of a file that an earlier writer left. Raises `Corrupt` where it is torn."""
    tensors = _read(file)[1]
    rows, held_out_rows = len(tensors["x"]), int(tensors["held_out"].sum())
    return ShardFacts(rows=rows, held_out_rows=held_out_rows, num_bytes=file.stat().st_size, crc32=_checksum(file))


def _checksum(file: Path) -> int:
    """Of the bytes of a file, without holding them all. Raises `Corrupt` where they cannot be read."""
    checksum = 0
    try:
        with file.open("rb") as opened:
            while part := opened.read(_CHECKED_BYTES):
                checksum = zlib.crc32(part, checksum)
    except OSError as error:
        raise _torn(file, str(error)) from None
    return checksum


def _read(file: Path) -> tuple[StorePlan, _Tensors]:
    """What a shard is part of, and its tensors by memory map. Raises `Corrupt` where it is torn."""
    try:
        with safe_open(file, framework="pt") as opened:
            plan = (opened.metadata() or {})["plan"]
            tensors = {name: opened.get_tensor(name) for name in ("x", "window", "position", "held_out")}
    except (SafetensorError, OSError, KeyError) as error:
        raise _torn(file, str(error)) from None
    return from_json(StorePlan, plan, where=str(file)), tensors


def _torn(file: Path, why: str) -> Corrupt:
    return Corrupt(
        f"{file} is torn: {why}. Delete this file and index.json beside it, and run saelab capture again: it makes only what lacks."
    )
