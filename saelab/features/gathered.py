"""What was collected, made from activations that another project found: the same state as a pass of one's own leaves."""

import numpy as np
import torch

from saelab.corpus import Corpus, document_info
from saelab.features.examples import Grid
from saelab.features.sketch import CollectConfig, Collected, Sketch
from saelab.interop.firings import Firings
from saelab.policy import MIN_WINDOW, TokenPolicy
from saelab.progress import note
from saelab.texts.base import Document

_ROWS = 2**18


def gather(firings: Firings, d_sae: int, config: CollectConfig, project: str) -> Collected:
    """Statistics and examples of features from activations on sequences of tokens; each sequence is a document, and every token counts.

    Sequences of fewer than eight tokens are left out, and said so.

    Arguments:
    - `firings`: the activations.
    - `d_sae`: number of features.
    - `config`: how much is kept of each.
    - `project`: whose they are; documents are named after it.
    """
    lengths = np.array([len(sequence) for sequence in firings.sequences])
    long = lengths >= MIN_WINDOW
    if not long.all():
        note(f"{(~long).sum():,} of {len(long):,} sequences have fewer than {MIN_WINDOW} tokens and are left out.")
    infos = [document_info(Document(key=f"{project}/{number}", domain=project)) for number in range(len(lengths))]
    policy = TokenPolicy(context=int(max(lengths.max(), MIN_WINDOW)), skip_first=0, one_window=True)
    corpus = Corpus(policy, infos, np.concatenate(firings.sequences).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))
    sketch = Sketch(Grid(corpus, config.width, config.before), config, d_sae, num_chunks=0)
    window_of = np.cumsum(long) - 1
    kept = np.flatnonzero(long[firings.sequence])
    begins = np.concatenate([[0], np.cumsum(corpus.window_length)])
    token = begins[window_of[firings.sequence[kept]]] + firings.position[kept]
    order = np.argsort(token, kind="stable")
    token, kept = token[order], kept[order]
    first = 0
    while first < corpus.num_windows:
        last = max(first + 1, int(np.searchsorted(begins, begins[first] + _ROWS, "right")) - 1)
        low, high = np.searchsorted(token, begins[[first, last]])
        _add(sketch, firings, kept[low:high], token[low:high] - begins[first], begins[first : last + 1] - begins[first], first)
        first = last
    return sketch.collected()


def _add(sketch: Sketch, firings: Firings, chosen: np.ndarray, row: np.ndarray, edges: np.ndarray, first: int) -> None:
    """Counts some whole windows in: `row` says at which of their tokens, counted on through all of them, each activation is."""
    num, lengths = int(edges[-1]), np.diff(edges)
    slot = np.arange(len(row)) - np.searchsorted(row, row)
    slots = int(slot.max(initial=0)) + 1
    feature, value = np.zeros((num, slots), np.int64), np.zeros((num, slots), np.float32)
    feature[row, slot], value[row, slot] = firings.feature[chosen], firings.value[chosen]
    window = np.repeat(np.arange(len(lengths)), lengths)
    place = (first + window) * sketch.grid.positions + np.arange(num) - edges[window]
    sketch.add(torch.from_numpy(feature), torch.from_numpy(value), torch.from_numpy(place))
