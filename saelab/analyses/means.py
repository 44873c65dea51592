"""Texts as means over their tokens: of the activations where a dictionary writes, and of the codes of dictionaries.

A linear probe on the mean activation sees a feature only through its mean code: with features F set to 0 on every token and the rest of
the activation kept, the mean becomes x - Σ_F z_f d_f, exactly.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from saelab.activations.shuffle import first_rows
from saelab.analyses.rows import CodeMatrix, codes_of
from saelab.analyses.tasks import text_rows
from saelab.baselines.neurons import Neurons
from saelab.baselines.random import Random
from saelab.dictionary import Dictionary
from saelab.lab import Lab
from saelab.progress import track

OWN, RANDOM, NEURONS = "features", "control random directions", "neurons"
"""The dictionary itself; as many random directions with as many active ones; every dimension of the activation."""
_FIT_ROWS = 20_000
Part = tuple[Float[Tensor, "row width"], Int[np.ndarray, " row"]]
"""Some training rows with the number of the text of each: whole texts."""


@dataclass(frozen=True)
class Means:
    """Means over the tokens of each text. A text without a token that counts has 0 everywhere."""

    x: Float[np.ndarray, "text d_out"]
    """Activations where the dictionary writes."""
    codes: Mapping[str, CodeMatrix]
    """Codes `[text feature]` of each dictionary."""
    directions: Mapping[str, Float[np.ndarray, "feature d_out"]]
    """Directions of each dictionary's features."""


def dictionaries_of(lab: Lab, seed: int) -> dict[str, Dictionary]:
    """The lab's dictionary and the controls beside it, which read what it writes on, fitted on training activations."""
    sample = first_rows(lab.store, _FIT_ROWS, seed)
    active = codes_of(lab.dictionary, sample[:2000])
    target = sample[:, -lab.dictionary.d_out :]
    k = max(1, min(round(active.nnz / active.shape[0]), lab.dictionary.d_out))
    random = Random.fit(target, k=k, d_sae=lab.dictionary.d_sae, seed=seed)
    return {OWN: lab.dictionary, RANDOM: random, NEURONS: Neurons.fit(target, k=target.shape[1])}


def means_of(parts: Iterable[Part], count: int, dictionaries: Mapping[str, Dictionary]) -> Means:
    """Means of so many texts. The dictionary called `OWN` reads the front of a row, the others what is written, its end."""
    d_out = dictionaries[OWN].d_out
    x = np.zeros((count, d_out))
    numbers: list[np.ndarray] = [np.zeros(0, np.int64)]
    blocks = {name: [sparse.csr_array((0, one.d_sae))] for name, one in dictionaries.items()}
    for rows, text in parts:
        known, place, sizes = np.unique(text, return_inverse=True, return_counts=True)
        average = sparse.csr_array((1 / sizes[place], (place, np.arange(len(text)))), shape=(len(known), len(text)))
        x[known] = average @ rows[:, -d_out:].double().numpy()
        numbers.append(known)
        for name, one in dictionaries.items():
            blocks[name].append(average @ codes_of(one, rows if name == OWN else rows[:, -d_out:]))
    order = np.concatenate(numbers)
    put = sparse.csr_array((np.ones(len(order)), (order, np.arange(len(order)))), shape=(count, len(order)))
    return Means(
        x=x,
        codes={name: put @ sparse.vstack(found, format="csr") for name, found in blocks.items()},
        directions={name: one.directions.detach().double().cpu().numpy() for name, one in dictionaries.items()},
    )


def window_parts(lab: Lab, windows: Int[np.ndarray, " text"]) -> Iterator[Part]:
    """Rows of some windows of the corpus, which are the texts, from the store."""
    text_of = np.full(lab.corpus.num_windows, -1)
    text_of[windows] = np.arange(len(windows))
    for chunk in track(lab.store.chunks(), stage="analyse", total=len(lab.store.chunk_rows()), unit="chunks"):
        text = text_of[chunk.window.numpy()]
        wanted = np.flatnonzero(text >= 0)
        if len(wanted):
            yield chunk.x[wanted].float().cpu(), text[wanted]


def text_parts(lab: Lab, texts: Sequence[str], max_tokens: int) -> Iterator[Part]:
    """Rows of some texts, read by the subject: tokens that count and whose activation is of ordinary size."""
    found = text_rows(lab, texts, max_tokens)
    for number, x, counted in track(found, stage="analyse", total=len(texts), unit="texts"):
        kept = np.flatnonzero(counted & lab.dictionary.ordinary(x[:, : lab.dictionary.d_in]).numpy())
        if len(kept):
            yield x[kept], np.full(len(kept), number)
