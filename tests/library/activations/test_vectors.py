"""Vectors from a file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from saelab.activations import vectors
from saelab.activations.shuffle import batches
from saelab.activations.vectors import Vectors, VectorStore
from saelab.errors import Corrupt, Invalid, NotFound

X = np.random.default_rng(0).standard_normal((1000, 6)).astype(np.float32)


def as_npy(file: Path, x: np.ndarray = X) -> None:
    np.save(file, x)


def as_safetensors(file: Path, x: np.ndarray = X) -> None:
    save_file({"x": torch.from_numpy(x)}, file)


def as_lists(file: Path, x: np.ndarray = X) -> None:
    parquet.write_table(pa.table({"x": list(x), "id": list(range(len(x)))}), file, row_group_size=300)


def as_fixed_lists(file: Path, x: np.ndarray = X) -> None:
    parquet.write_table(pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])}), file, row_group_size=130)


WRITERS = {"npy": as_npy, "safetensors": as_safetensors, "lists.parquet": as_lists, "fixed.parquet": as_fixed_lists}


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Vectors]:
    """Writes a matrix in one of the formats."""
    monkeypatch.setattr(vectors, "_CHUNK_ROWS", 256)

    def write(*x: np.ndarray) -> Vectors:
        file = tmp_path / f"vectors.{request.param}"
        WRITERS[request.param](file, *x)
        return Vectors(file=str(file))

    return write


def test_every_format_gives_the_same_rows_in_their_order(written: Callable[..., Vectors]):
    store = VectorStore(written())
    chunks = list(store.chunks())
    assert torch.equal(torch.cat([chunk.x for chunk in chunks]), torch.from_numpy(X))
    assert torch.cat([chunk.window for chunk in chunks]).tolist() == list(range(1000))
    assert (store.d_in, store.num_rows, len(chunks), store.hook) == (6, 1000, 4, "vectors")


def test_a_tenth_is_held_out_and_batches_have_the_rest(written: Callable[..., Vectors]):
    store = VectorStore(written())
    held_out = torch.cat([chunk.window for chunk in store.chunks(held_out=True)])
    assert 90 <= len(held_out) == sum(store.chunk_rows(True)) <= 110
    (batch,) = batches(store, sum(store.chunk_rows(False)), seed=0, steps=1)
    rest = np.delete(X, held_out.numpy(), axis=0)
    assert sorted(batch[:, 0].tolist()) == sorted(rest[:, 0].tolist())


def test_more_rows_move_none_between_training_and_held_out(tmp_path: Path):
    as_npy(tmp_path / "few.npy", X[:700])
    as_npy(tmp_path / "many.npy")
    few, many = (
        torch.cat([chunk.window for chunk in VectorStore(Vectors(file=str(tmp_path / name))).chunks(True)])
        for name in ("few.npy", "many.npy")
    )
    assert few.tolist() == [row for row in many.tolist() if row < 700]


def test_a_row_that_is_not_finite_is_named(written: Callable[..., Vectors]):
    x = X.copy()
    x[701, 3] = np.nan
    store = VectorStore(written(x))
    store.chunk(0)
    with pytest.raises(Invalid, match=r"Row 701 of .* holds a number that is not finite"):
        list(store.chunks())


def test_narrow_numbers_stay_and_wide_ones_become_float32(tmp_path: Path):
    as_npy(tmp_path / "half.npy", X.astype(np.float16))
    as_npy(tmp_path / "double.npy", X.astype(np.float64))
    save_file({"x": torch.from_numpy(X).bfloat16()}, tmp_path / "bf16.safetensors")
    save_file({"x": torch.from_numpy(X).double()}, tmp_path / "double.safetensors")
    files = ("half.npy", "double.npy", "bf16.safetensors", "double.safetensors")
    found = [VectorStore(Vectors(file=str(tmp_path / name))).chunk(0).x.dtype for name in files]
    assert found == [torch.float16, torch.float32, torch.bfloat16, torch.float32]


def test_what_is_no_matrix_of_numbers_is_refused(tmp_path: Path):
    as_npy(tmp_path / "cube.npy", X.reshape(10, 100, 6))
    as_npy(tmp_path / "empty.npy", X[:0])
    as_npy(tmp_path / "whole.npy", X.astype(np.int64))
    (tmp_path / "torn.npy").write_bytes((tmp_path / "cube.npy").read_bytes()[:40])
    (tmp_path / "torn.safetensors").write_bytes(b"rubbish")
    (tmp_path / "torn.parquet").write_bytes(b"rubbish")
    (tmp_path / "vectors.csv").write_text("1,2")
    parquet.write_table(pa.table({"x": [[1.0, 2.0], [3.0]]}), tmp_path / "ragged.parquet")
    for name, kind, words in (
        ("cube.npy", Invalid, r"an array of shape \[10, 100, 6\]. Expected a matrix"),
        ("empty.npy", Invalid, r"shape \[0, 6\].*one row at least"),
        ("whole.npy", Invalid, "numbers of type int64. Expected floating-point"),
        ("torn.npy", Corrupt, "torn or no .npy file"),
        ("torn.safetensors", Corrupt, "torn or no safetensors file"),
        ("torn.parquet", Corrupt, "torn or no parquet file"),
        ("vectors.csv", Invalid, "ends in '.csv'. Vectors are read from .npy, .safetensors, .parquet files"),
        ("nowhere.npy", NotFound, "There is no file"),
        ("ragged.parquet", Invalid, "Row 1 of .* has 1 values, where the first has 2"),
    ):
        with pytest.raises(kind, match=words):
            list(VectorStore(Vectors(file=str(tmp_path / name))).chunks())


def test_an_unknown_tensor_lists_those_that_are_there(tmp_path: Path):
    save_file({"mean": torch.zeros(3), "rows": torch.from_numpy(X)}, tmp_path / "two.safetensors")
    as_lists(tmp_path / "lists.parquet")
    as_npy(tmp_path / "one.npy")
    assert VectorStore(Vectors(file=str(tmp_path / "two.safetensors"), tensor="rows")).d_in == 6
    for name, tensor, kind, words in (
        ("two.safetensors", "row", NotFound, "Unknown tensor in .* 'row'. Did you mean rows"),
        ("two.safetensors", None, Invalid, r"holds 2 tensors \(mean, rows\).*Name one"),
        ("lists.parquet", "id", NotFound, "Unknown column of lists in .* Known: x"),
        ("one.npy", "x", Invalid, "holds one array without a name"),
    ):
        with pytest.raises(kind, match=words):
            VectorStore(Vectors(file=str(tmp_path / name), tensor=tensor))
