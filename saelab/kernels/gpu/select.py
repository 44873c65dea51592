"""The largest pre-activations of each row, or of the whole batch: exact among bfloat16 values, equal ones in the order of their places.

A group of 32 places is known by its largest. The k groups with the largest ones hold the k largest values, so only their places are looked
at: the array is read once, and a small part of it a second time. The k-th largest of a set is found bit by bit, or over a whole
batch by a histogram of the upper and one of the lower byte, since bfloat16 values have 16-bit keys that sort as they do.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import BFloat16, Float, Int
from torch import Tensor

_WIDTH = 32
"""Places of a group: all groups are ranked, and then all places of as many as are kept."""
_GROUPS = 128
"""Groups of which a program finds the largest."""
_FEW = 1024
"""So many keys are ranked by one warp, which waits for no other."""
_BINS = 256


@triton.jit
def _keys(bits, MAGNITUDE: tl.constexpr):
    """Keys from 0 to 65535 that sort as the bfloat16 values, or as their magnitudes."""
    bits = bits.to(tl.int32) & 0xFFFF
    return bits & 0x7FFF if MAGNITUDE else tl.where(bits >= 0x8000, 0xFFFF - bits, bits | 0x8000)


@triton.jit
def _values(keys):
    """The values that have these keys."""
    bits = tl.where(keys >= 0x8000, keys & 0x7FFF, 0xFFFF - keys)
    return (bits << 16).to(tl.float32, bitcast=True)


@triton.jit
def _kth(keys, wanted):
    """The largest key that at least `wanted` keys reach; 0 where there are fewer."""
    found = tl.zeros((), tl.int32)
    for bit in tl.static_range(16):
        trial = found | (1 << (15 - bit))
        found = tl.where(tl.sum((keys >= trial).to(tl.int32)) >= wanted, trial, found)
    return found


@triton.jit
def _maxima_kernel(values, maxima, width, num_groups, end, MAGNITUDE: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr):
    """The largest key of some groups, which are numbered through all rows."""
    number = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    row, group = number // num_groups, number % num_groups
    place = group[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    real = (place < width) & (number < end)[:, None]
    keys = _keys(tl.load(values + row[:, None] * width + place, mask=real, other=0), MAGNITUDE)
    tl.store(maxima + number, tl.max(tl.where(real, keys, -1), axis=1), mask=number < end)


@triton.jit
def _topk_kernel(
    values, bits, maxima, groups, out, places, width, num_groups, k, MAGNITUDE: tl.constexpr, ALL: tl.constexpr, K: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """The k largest values of a row and their places, in order; a program is a row. `groups` is room for the groups that hold them."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, ALL)
    keys = tl.load(maxima + row * num_groups + group, mask=group < num_groups, other=-1)
    wanted = tl.minimum(k, num_groups)
    at = _places(keys, wanted)
    tl.store(groups + row * K + at, group, mask=at >= 0)
    tl.debug_barrier()
    slot = tl.arange(0, K)
    held = tl.load(groups + row * K + slot, mask=slot < wanted, other=0)
    place = held[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    real = (slot < wanted)[:, None] & (place < width)
    keys = _keys(tl.load(bits + row * width + place, mask=real, other=0), MAGNITUDE)
    at = _places(tl.reshape(tl.where(real, keys, -1), (K * WIDTH,)), k)
    tl.store(places + row * k + at, tl.reshape(place, (K * WIDTH,)).to(tl.int64), mask=at >= 0)
    tl.debug_barrier()
    chosen = tl.load(places + row * k + slot, mask=slot < k, other=0)
    tl.store(out + row * k + slot, tl.load(values + row * width + chosen, mask=slot < k, other=0.0).to(tl.float32), mask=slot < k)


@triton.jit
def _places(keys, wanted):
    """For each of the `wanted` largest keys its rank by place, of equal ones the first; -1 for the others."""
    least = _kth(keys, wanted)
    above, equal = keys > least, keys == least
    spare = wanted - tl.sum(above.to(tl.int32))
    wide: tl.constexpr = tl.int64 if keys.shape[0] >= 2**15 else tl.int32
    half: tl.constexpr = wide.primitive_bitwidth // 2
    before = tl.cumsum(above.to(wide) + (equal.to(wide) << half))  # both counts in one go
    ties = (before >> half).to(tl.int32)
    at = (before & ((1 << half) - 1)).to(tl.int32) + tl.minimum(ties, spare) - 1
    return tl.where(above | (equal & (ties <= spare)), at, -1)


def topk_places(values: BFloat16[Tensor, "row width"], k: int, signed: bool = False) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest of each row and their places, in order of place; of equal values the first. `signed`: the largest by magnitude."""
    (rows, width), num_groups = values.shape, triton.cdiv(values.shape[1], _WIDTH)
    maxima, bits = _maxima(values, signed), values.view(torch.int16)
    size, every = triton.next_power_of_2(k), triton.next_power_of_2(num_groups)
    groups = torch.empty(rows, size, dtype=torch.int32, device=values.device)
    places = torch.empty(rows, k, dtype=torch.int64, device=values.device)
    found = torch.empty(rows, k, dtype=torch.float32, device=values.device)
    if rows:
        _topk_kernel[(rows,)](
            values, bits, maxima, groups, found, places, width, num_groups, k, signed, every, size, _WIDTH,
            num_warps=1 if max(every, size * _WIDTH) <= _FEW else 4,
        )  # fmt: skip
    return found, places


def _maxima(values: Tensor, signed: bool) -> Int[Tensor, "row group"]:
    (rows, width), num_groups = values.shape, triton.cdiv(values.shape[1], _WIDTH)
    maxima, together = torch.empty(rows, num_groups, dtype=torch.int32, device=values.device), _GROUPS
    if rows:
        _maxima_kernel[(triton.cdiv(maxima.numel(), together),)](
            values.view(torch.int16), maxima, width, num_groups, maxima.numel(), signed, together, _WIDTH, num_warps=4
        )
    return maxima


@triton.jit
def _bin(counts, wanted, BINS: tl.constexpr):
    """The bin that holds the `wanted`-th largest key, and how many of its keys are wanted."""
    bins = tl.arange(0, BINS)
    count = tl.load(counts + bins)
    reach = tl.sum(count) - tl.cumsum(count) + count
    found = tl.max(tl.where(reach >= wanted, bins, 0))
    return found, wanted - tl.sum(tl.where(bins > found, count, 0))


@triton.jit
def _candidate_keys(values, maxima, starts, place, end, width, GROUPED: tl.constexpr, WIDTH: tl.constexpr):
    """Keys at places of the flat candidates: those of the groups themselves, or of all members of the chosen groups."""
    real = place < end
    if GROUPED:
        group = tl.load(starts + place // WIDTH, mask=real, other=0)
        row, column = group // tl.cdiv(width, WIDTH), (group % tl.cdiv(width, WIDTH)) * WIDTH + place % WIDTH
        real = real & (column < width)
        keys = _keys(tl.load(values + row * width + column, mask=real, other=0), False)
    else:
        keys = tl.load(maxima + place, mask=real, other=-1)
    return tl.where(real, keys, -1)


@triton.jit
def _least(bins, wanted, BINS: tl.constexpr):
    """The `wanted`-th largest key, from how many keys have each upper byte, and how many with its upper byte each lower one; and how many
    keys that equal it are wanted.
    """
    high, left = _bin(bins, wanted, BINS)
    low, spare = _bin(bins + BINS, left, BINS)
    return high * 256 + low, spare


@triton.jit
def _histogram_kernel(
    values, maxima, groups, bins, end, wanted, width, LOWER: tl.constexpr, GROUPED: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr,
    BINS: tl.constexpr,
):  # fmt: skip
    """Counts the upper bytes of a block of keys in `bins`; or, of those whose upper byte is the one sought, the lower ones, behind them."""
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    keys = _candidate_keys(values, maxima, groups, place, end, width, GROUPED, WIDTH)
    if LOWER:
        found, _ = _bin(bins, wanted, BINS)
        counts = tl.histogram(keys & 0xFF, BINS, mask=(keys >> 8) == found)
    else:
        counts = tl.histogram(tl.maximum(keys, 0) >> 8, BINS, mask=keys >= 0)
    tl.atomic_add(bins + LOWER * BINS + tl.arange(0, BINS), counts, sem="relaxed")


@triton.jit
def _block_counts_kernel(
    values, maxima, groups, bins, above, equal, end, wanted, width, GROUPED: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr,
    BINS: tl.constexpr,
):  # fmt: skip
    """How many keys of a block exceed the least that is wanted, and how many equal it."""
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    keys = _candidate_keys(values, maxima, groups, place, end, width, GROUPED, WIDTH)
    least, _ = _least(bins, wanted, BINS)
    tl.store(above + tl.program_id(0), tl.sum((keys > least).to(tl.int32)))
    tl.store(equal + tl.program_id(0), tl.sum((keys == least).to(tl.int32)))


@triton.jit
def _write_kernel(
    values, maxima, groups, bins, above, equal, out, rows, columns, end, wanted, width, GROUPED: tl.constexpr, SIZE: tl.constexpr,
    WIDTH: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Writes the chosen values of a block, with row and column, behind those of the blocks before it; or the chosen maxima, with the number
    of their group in place of the column. `above` and `equal` hold sums up to each block.
    """
    block = tl.program_id(0)
    place = block.to(tl.int64) * SIZE + tl.arange(0, SIZE)
    keys = _candidate_keys(values, maxima, groups, place, end, width, GROUPED, WIDTH)
    least, spare = _least(bins, wanted, BINS)
    before = tl.where(block > 0, tl.load(above + block - 1, mask=block > 0, other=0), 0)
    ties = tl.where(block > 0, tl.load(equal + block - 1, mask=block > 0, other=0), 0)
    is_equal = keys == least
    chosen = (keys > least) | (is_equal & (ties + tl.cumsum(is_equal.to(tl.int32)) <= spare))
    at = before + tl.minimum(ties, spare) + tl.cumsum(chosen.to(tl.int32)) - 1
    tl.store(out + at, _values(keys), mask=chosen)
    if GROUPED:
        group = tl.load(groups + place // WIDTH, mask=place < end, other=0)
        tl.store(rows + at, group // tl.cdiv(width, WIDTH), mask=chosen)
        place = (group % tl.cdiv(width, WIDTH)) * WIDTH + place % WIDTH
    tl.store(columns + at, place, mask=chosen)


_TILE, _WARPS = 4096, 8
"""Keys that a program ranks, and its warps."""


def _chosen(values: Tensor, maxima: Tensor, groups: Tensor | None, bins: Tensor, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `wanted` largest among all members of some groups, with row and column, in order; or the largest maxima, with their groups.

    `bins` begin at 0.
    """
    end = maxima.numel() if groups is None else groups.numel() * _WIDTH
    blocks, device, grouped = triton.cdiv(end, _TILE), values.device, groups is not None
    counts = torch.empty(2, blocks, dtype=torch.int32, device=device)
    out = torch.empty(wanted, dtype=torch.float32, device=device)
    rows, columns = torch.empty(2, wanted, dtype=torch.int64, device=device)
    known, width = (values.view(torch.int16), maxima, maxima if groups is None else groups, bins), values.shape[1]
    sizes = (grouped, _TILE, _WIDTH, _BINS)
    for is_lower in (False, True):
        _histogram_kernel[(blocks,)](*known, end, wanted, width, is_lower, *sizes, num_warps=_WARPS)
    _block_counts_kernel[(blocks,)](*known, *counts, end, wanted, width, *sizes, num_warps=_WARPS)
    _write_kernel[(blocks,)](*known, *counts.cumsum(1, dtype=torch.int32), out, rows, columns, end, wanted, width, *sizes, num_warps=_WARPS)
    return out, rows, columns


def batch_topk_places(
    values: BFloat16[Tensor, "row width"], count: int
) -> tuple[Float[Tensor, " {count}"], Int[Tensor, " {count}"], Int[Tensor, " {count}"]]:
    """The `count` largest of the whole array, and their rows and columns, in order; of equal values the first."""
    maxima, bins = _maxima(values, False), torch.zeros(2, 2 * _BINS, dtype=torch.int32, device=values.device)
    *_, groups = _chosen(values, maxima, None, bins[0], min(count, maxima.numel()))
    return _chosen(values, maxima, groups, bins[1], count)
