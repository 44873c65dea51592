"""The entries over thresholds and near them, as lists in row order; and what pulls at thresholds, summed without lists.

One pass over the pre-activations leaves two bits for each, 32 in a word, and counts them by row. What follows reads words alone: a list is
made in a second pass, which writes value, feature and row of each entry to its place, and most words are 0.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16, Float, Int
from torch import Tensor
from torch.nn import functional

from saelab.kernels.threshold import Listed, Marked, Room

_ROWS, _WORDS = 4, 32
"""Rows and words of a tile: thresholds are read once for all of its rows."""
_READ = 512
"""Words that a program reads at a time."""
_PROGRAMS = 768
"""About so many sum over rows: enough that a GPU is busy, few enough that they are at work all at once."""


@triton.jit
def _words_kernel(pre, threshold, reach, over, near, counts, rows, width, num_words, ROWS: tl.constexpr, WORDS: tl.constexpr):
    """A bit for each pre-activation of a tile that is over its threshold, and in other words for each that is near it; counts by row."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    bit = tl.arange(0, 32)
    column = word[:, None] * 32 + bit[None, :]
    bar = tl.load(threshold + column, mask=column < width, other=float("inf"))[None, :, :]
    place = row[:, None, None] * width + column[None, :, :]
    real = (row < rows)[:, None, None] & (column < width)[None, :, :]
    value = tl.load(pre + place, mask=real, other=float("-inf")).to(tl.float32)
    to = row[:, None] * num_words + word[None, :]
    there = (row < rows)[:, None] & (word < num_words)[None, :]
    is_over = (value > bar).to(tl.int32)
    tl.store(over + to, tl.sum(is_over << bit[None, None, :], axis=2), mask=there)
    tl.atomic_add(counts + row, tl.sum(tl.sum(is_over, axis=2), axis=1), mask=row < rows, sem="relaxed")
    far = tl.load(reach + column, mask=column < width, other=0.0)[None, :, :]
    is_near = (tl.abs(value - bar) < far).to(tl.int32)
    tl.store(near + to, tl.sum(is_near << bit[None, None, :], axis=2), mask=there)
    tl.atomic_add(counts + rows + row, tl.sum(tl.sum(is_near, axis=2), axis=1), mask=row < rows, sem="relaxed")


@triton.jit
def _bits(word):
    """How many bits of each word are set."""
    word -= (word >> 1) & 0x55555555
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return ((word * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _entries_kernel(pre, words, starts, values, indices, rows, width, num_words, room, READ: tl.constexpr):
    """Writes the entries of a row, as far as there is room, to where its own begin; a turn writes one of each word that has any left."""
    row = tl.program_id(0).to(tl.int64)
    begin = tl.load(starts + row)
    if begin < tl.load(starts + row + 1):
        for first in range(0, num_words, READ):
            number = first + tl.arange(0, READ)
            word = tl.load(words + row * num_words + number, mask=number < num_words, other=0).to(tl.uint32, bitcast=True)
            count = _bits(word)
            at = begin + tl.cumsum(count) - count
            begin += tl.sum(count)
            for _ in range(tl.max(count)):
                lowest = word & (0 - word)
                bit = (lowest.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
                feature, fits = number * 32 + bit, (word != 0) & (at < room)
                tl.store(values + at, tl.load(pre + row * width + feature, mask=fits, other=0.0).to(tl.float32), mask=fits)
                tl.store(indices + at, feature.to(tl.int64), mask=fits)
                tl.store(rows + at, row + tl.zeros((READ,), tl.int64), mask=fits)
                word -= lowest
                at += 1


def listed(
    pre: BFloat16[Tensor, "row d_sae"], threshold: Float[Tensor, " d_sae"], reach: Float[Tensor, " d_sae"], room: Room
) -> tuple[Listed, Listed | Marked]:
    """What `saelab.kernels.threshold.listed` gives."""
    (rows, width), num_words = pre.shape, triton.cdiv(pre.shape[1], 32)
    words = torch.empty(2, rows, num_words, dtype=torch.int32, device=pre.device)
    counts = torch.zeros(2, rows, dtype=torch.int32, device=pre.device)
    _words_kernel[(triton.cdiv(rows, _ROWS), triton.cdiv(num_words, _WORDS))](
        pre, threshold, reach, *words, counts, rows, width, num_words, _ROWS, _WORDS, num_warps=4
    )
    starts = functional.pad(counts.cumsum(1), (1, 0))
    over = _read(pre, words[0], starts[0], room[0])
    return over, Marked(words[1], starts[1, -1]) if room[1] is None else _read(pre, words[1], starts[1], room[1])


def _read(pre: Tensor, words: Int[Tensor, "row word"], starts: Int[Tensor, " row_starts"], room: int) -> Listed:
    """The list of the entries whose bits are set; it is filled up with 0."""
    values = torch.zeros(room, device=pre.device)
    indices, rows = torch.zeros(2, room, dtype=torch.int64, device=pre.device)
    _entries_kernel[(len(pre),)](pre, words, starts, values, indices, rows, pre.shape[1], words.shape[1], room, _READ, num_warps=4)
    return Listed(values, indices, rows, starts.clamp(max=room), starts[-1])


@triton.jit
def _pull_kernel(words, products, out, rows, first, part, width, num_words, ROWS: tl.constexpr, WORDS: tl.constexpr, LONG: tl.constexpr):
    """Over some rows, the sums of products of a block of features where their bits are set; and how many these are."""
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    feature = word[:, None] * 32 + tl.arange(0, 32)[None, :]
    inside = feature < part
    total, count = tl.zeros((ROWS, WORDS, 32), tl.float32), tl.zeros((ROWS, WORDS, 32), tl.int32)
    for turn in range(LONG):
        row = (tl.program_id(1) * LONG + turn) * ROWS + tl.arange(0, ROWS).to(tl.int64)
        real = (row < rows)[:, None] & (word * 32 < part)[None, :]
        found = tl.load(words + row[:, None] * num_words + first // 32 + word[None, :], mask=real, other=0)
        place = row[:, None, None] * part + feature[None, :, :]
        product = tl.load(products + place, mask=(row < rows)[:, None, None] & inside[None, :, :], other=0.0).to(tl.float32)
        bit = (found[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
        total += bit.to(tl.float32) * product
        count += bit
    to = out + tl.program_id(1) * 2 * width + first + feature
    tl.store(to, tl.sum(total, axis=0), mask=inside)
    tl.store(to + width, tl.sum(count, axis=0).to(tl.float32), mask=inside)


_PART = 2**28
"""Products that are made at a time."""


def pulled(
    near: Int[Tensor, "row word"], residual: BFloat16[Tensor, "row d_in"], decoder: BFloat16[Tensor, "d_sae d_in"]
) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
    """What `saelab.kernels.threshold.Marked.pull` gives, of products in bfloat16."""
    rows, width, tile, words = len(near), len(decoder), 8, 8
    size = min(width, max(32 * words, _PART // max(rows, 1) // 32 * 32))
    blocks = triton.cdiv(size, 32 * words)
    turns = triton.cdiv(rows, tile * max(1, _PROGRAMS // blocks))
    out = torch.empty(triton.cdiv(rows, tile * turns), 2, width, device=near.device)
    for first in range(0, width, size):
        products = residual @ decoder[first : first + size].T
        _pull_kernel[(blocks, len(out))](
            near, products, out, rows, first, products.shape[1], width, near.shape[1], tile, words, turns, num_warps=4
        )
    along, count = out.sum(0)
    return along, count
