"""Near-duplicates: windows that repeat text of another split."""

import numpy as np
from jaxtyping import Bool, Int

from saelab.features.examples import SPLITS

SHINGLE = 13
"""Tokens in a row that make two windows near-duplicates (Brown et al. 2020, appendix C, use 13-grams against contamination)."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def shingles(tokens: Int[np.ndarray, "window pos"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Hashes of every 13 tokens in a row, and the window of each. A window with fewer tokens gives one hash of all of them."""
    ids = tokens.astype(np.int64)
    length = ids.shape[1]
    span = min(SHINGLE, length)
    hashes = np.zeros((len(ids), length - span + 1), np.uint64)
    for offset in range(span):
        hashes = (hashes ^ (ids[:, offset : offset + hashes.shape[1]] + 2).astype(np.uint64)) * _FACTOR
        hashes ^= hashes >> np.uint64(29)
    real = ids >= 0
    full: Bool[np.ndarray, "window place"] = np.lib.stride_tricks.sliding_window_view(real, span, axis=1).min(-1)
    short = ~full.max(1) & real.max(1)
    full[short, real[short].argmax(1).clip(max=hashes.shape[1] - 1)] = True
    window, place = np.nonzero(full)
    return hashes[window, place], window


def leaked(tokens: Int[np.ndarray, "window pos"], split: Int[np.ndarray, " window"], before: int) -> Bool[np.ndarray, " window"]:
    """Which windows repeat text of an earlier split: select windows of an explain one, score windows of either. Left context is ignored."""
    found = np.zeros(len(tokens), np.bool_)
    if not len(tokens):
        return found
    hashes, window = shingles(tokens[:, before:])
    owner = split[window]
    for later in range(1, len(SPLITS)):
        repeated = np.isin(hashes[owner == later], np.unique(hashes[owner < later]))
        found[window[owner == later][repeated]] = True
    return found
