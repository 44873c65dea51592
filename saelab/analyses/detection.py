"""Detection: how well the feature that SCAR taught a concept tells it, on held-out documents.

    AUROC = P(z of a positive > z of a negative) + P(equal) / 2

over tokens, each with its document's label, and over documents, each by its largest z. Intervals come from resampling whole documents.
"""

import numpy as np
import torch

from saelab.activations.labelled import carrying
from saelab.analyses.ranking import auroc
from saelab.lab import Lab
from saelab.records import Estimate

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
        "concept_auroc": auroc(z, carries[of_token], of_token, seed),
        "concept_document_auroc": auroc(largest, carries, np.arange(len(known)), seed),
    }
