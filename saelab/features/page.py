"""Examples of one feature as its page shows them: the strongest first, then a spread over the activation quantiles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from saelab.features.examples import SPLITS, KeptSegments, SegmentTexts
from saelab.records import Example, ExampleBand

_TOP = 12
_BANDS = 5
_PER_BAND = 4


@dataclass(frozen=True)
class _Band:
    name: str
    kept: KeptSegments
    rows: Int[np.ndarray, " n"]
    shown: Int[np.ndarray, " some"]
    share: float


def bands(
    kept: dict[str, KeptSegments],
    active: Int[np.ndarray, " split"],
    segments: Callable[[Sequence[int]], SegmentTexts],
    strings: tuple[str, ...],
    before: int,
) -> tuple[ExampleBand, ...]:
    """The strongest segments, the most negative ones (signed codes), and quantile bands of the uniform samples.

    Arguments:
    - `kept`: the feature's segments by kind.
    - `active`: in how many segments of each split it fires.
    - `segments`: looks up text.
    - `strings`: tokens as text.
    - `before`: columns of left context.
    """
    total = max(1, int(active.sum()))
    found: list[_Band] = []
    for kind in ("top", "bottom"):
        if kind in kept:
            rows = np.arange(min(_TOP, len(kept[kind].peak)))
            found.append(_Band(kind, kept[kind], rows, rows, len(rows) / total))
    samples = [(kept[name], active[number]) for number, name in enumerate(SPLITS) if name in kept]
    if samples and total > _TOP:
        together = KeptSegments(
            segment=np.concatenate([sample.segment for sample, _ in samples]),
            peak=np.concatenate([sample.peak for sample, _ in samples]),
            values=np.concatenate([sample.values for sample, _ in samples]),
        )
        weight = np.concatenate([np.full(len(sample.peak), number / len(sample.peak)) for sample, number in samples])
        found += _quantiles(together, weight / weight.sum())
    texts = segments(sorted({int(number) for band in found for number in band.kept.segment[band.shown]}))
    return tuple(_record(band, texts, strings, before) for band in found)


def _quantiles(kept: KeptSegments, weight: Float[np.ndarray, " n"]) -> list[_Band]:
    """The sample in bands of equal shares of the active segments, strongest first; `weight` sums to 1."""
    order = np.argsort(kept.peak, kind="stable")
    rank = np.cumsum(weight[order]) - weight[order] / 2
    found: list[_Band] = []
    for band in reversed(range(_BANDS)):
        rows = order[(rank >= band / _BANDS) & (rank < (band + 1) / _BANDS)]
        if len(rows):
            name = f"{100 * band // _BANDS}-{100 * (band + 1) // _BANDS} %"
            shown = rows[np.unique(np.linspace(0, len(rows) - 1, _PER_BAND).round().astype(np.int64))]
            found.append(_Band(name, kept, rows, shown[::-1], float(weight[rows].sum())))
    return found


def _record(band: _Band, texts: SegmentTexts, strings: tuple[str, ...], before: int) -> ExampleBand:
    peaks = band.kept.peak[band.rows]
    return ExampleBand(
        name=band.name,
        low=float(peaks.min()),
        high=float(peaks.max()),
        share=band.share,
        examples=tuple(_example(texts, band.kept, row, strings, before) for row in band.shown.tolist()),
    )


def _example(texts: SegmentTexts, kept: KeptSegments, number: int, strings: tuple[str, ...], before: int) -> Example:
    row, values = int(np.searchsorted(texts.segment, kept.segment[number])), kept.values[number]
    columns = np.flatnonzero(texts.tokens[row] >= 0)
    off = np.where(np.arange(len(values)) >= before, np.abs(values - kept.peak[number]), np.inf)
    first = int(columns[0])
    return Example(
        document=int(texts.document[row]),
        domain=texts.domain[row],
        split=SPLITS[int(texts.split[row])],
        position=int(texts.position[row]) + first,
        tokens=tuple([strings[token] for token in texts.tokens[row, columns].tolist()]),
        values=tuple(values[columns].tolist()),
        peak=int(off.argmin()) - first,
    )
