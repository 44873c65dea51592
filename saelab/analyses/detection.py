"""Detection: how well the feature that SCAR taught a concept tells it, on held-out documents.

    AUROC = P(z of a positive > z of a negative) + P(equal) / 2

over tokens, each with its document's label, and over documents, each by its largest z. Intervals come from resampling whole documents.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saelab.activations.labelled import carrying
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.scorers.metrics import document_weights, interval

_DRAWS = 200
_CONCEPT = 0
"""The feature that SCAR teaches the concept."""


@torch.inference_mode()
def detection(lab: Lab, seed: int) -> dict[str, Estimate | None]:
    """`concept_auroc` and `concept_document_auroc` of a dictionary that was taught a concept; nothing for any other."""
    if not lab.concept:
        return {}
    of_window = torch.from_numpy(lab.corpus.window_document).long()
    strengths, documents = [np.zeros(0)], [np.zeros(0, np.int64)]
    for chunk in lab.store.chunks(held_out=True):
        z = lab.dictionary.encode(chunk.x.float())
        strengths.append((z.values * (z.indices == _CONCEPT)).sum(-1).double().numpy())
        documents.append(of_window[chunk.window].numpy())
    z, document = np.concatenate(strengths), np.concatenate(documents)
    known, of_token = np.unique(document, return_inverse=True)
    largest = np.full(len(known), -np.inf)
    np.maximum.at(largest, of_token, z)
    carries = carrying(lab.corpus, lab.concept).numpy()[known]
    return {
        "concept_auroc": _told(z, of_token, carries, seed),
        "concept_document_auroc": _told(largest, np.arange(len(known)), carries, seed),
    }


def _told(
    z: Float[np.ndarray, " item"], documents: Int[np.ndarray, " item"], carries: Bool[np.ndarray, " document"], seed: int
) -> Estimate | None:
    """How well a number tells the items of documents that carry a concept; none where all documents are of one kind."""
    if carries.all() or not carries.any():
        return None
    order = np.argsort(z, kind="stable")
    documents = documents[order]
    ties = np.flatnonzero(np.diff(z[order], prepend=-np.inf))
    value = _auroc(documents, ties, carries, np.ones(len(carries)))
    draws = document_weights(np.arange(len(carries)), _DRAWS, np.random.default_rng(seed))
    low, high = interval(np.array([_auroc(documents, ties, carries, weights) for weights in draws]))
    return Estimate(value=value, low=low, high=high, n=len(carries))


def _auroc(
    documents: Int[np.ndarray, " item"],
    ties: Int[np.ndarray, " level"],
    carries: Bool[np.ndarray, " document"],
    weights: Float[np.ndarray, " document"],
) -> float:
    """Area under the ROC curve of items in rising order, equal ones from each of `ties` on; NaN where one kind weighs nothing."""
    positive, negative = (np.add.reduceat((weights * kind)[documents], ties) for kind in (carries, ~carries))
    below = np.cumsum(negative) - negative / 2
    total = positive.sum() * negative.sum()
    return float((positive * below).sum() / total) if total else float("nan")
