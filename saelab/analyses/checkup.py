"""Evaluation in training: a few held-out rows and windows, often, where `evaluate` takes many, once.

    fvu, l0                                  on held-out rows, as `evaluate` has them
    dead, dense                              shares of the features that are active on none of these rows, and on more than a tenth
    ce_increase, kl                          nats a token that splicing the reconstruction in costs, on held-out windows
    ce_recovered_mean, ce_recovered_zero     1 - ce_increase over the increase when activations are replaced by their mean, or by 0
    kl_recovered_mean, kl_recovered_zero     the same for KL

What does not depend on the dictionary is computed once, for all dictionaries that are trained on the hook.
"""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saelab.activations.base import ActivationStore
from saelab.activations.shuffle import first_rows
from saelab.analyses.losses import Batch, loss_sums, some_windows
from saelab.analyses.splices import Splice, constant, own, splice
from saelab.corpus import Corpus
from saelab.dictionary import Dictionary
from saelab.subject import Subject

_ROWS = 16_384
_WINDOWS = 16
_BATCH_WINDOWS = 4
_PART = 4096
_DENSE = 0.1
_KEPT_BYTES = 2**28
"""The clean predictions are kept from one evaluation to the next where they take no more; else they are made again."""


class Checkup:
    """Measures dictionaries of one hook; an `Evaluation` of `saelab.training`.

    Arguments:
    - `store`: its activations.
    - `subject`: the model, and
    - `corpus`: its windows, for the losses; none for vectors that come from no model.

    Raises `Invalid` where nothing is held out.
    """

    def __init__(self, store: ActivationStore, subject: Subject | None = None, corpus: Corpus | None = None) -> None:
        self._rows = first_rows(store, _ROWS, 0, held_out=True)
        self._mean = first_rows(store, _ROWS, 0).mean(0)
        self._losses = None if subject is None or corpus is None else _SplicedLosses(subject, corpus)

    @torch.no_grad()
    def __call__(self, dictionary: Dictionary) -> dict[str, float]:
        """The numbers, by name."""
        found = self._reconstruction(dictionary)
        return found if self._losses is None else {**found, **self._losses.of(dictionary, self._mean)}

    def _reconstruction(self, dictionary: Dictionary) -> dict[str, float]:
        device = dictionary.directions.device
        mean = self._mean.to(device)
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        counts = torch.zeros(dictionary.d_sae, device=device)
        for part in self._rows.split(_PART):
            rows = part.to(device)
            written, codes = own(dictionary)(rows)
            target = rows[:, -dictionary.d_out :]
            missing = (target - written).double().square().sum()
            sums += torch.stack([missing, (target - mean[-dictionary.d_out :]).double().square().sum()])
            counts.index_add_(0, codes.indices.flatten(), (codes.values != 0).to(counts.dtype).flatten())
        return {
            "fvu": float(sums[0] / sums[1]),
            "l0": float(counts.sum() / len(self._rows)),
            "dead": float((counts == 0).float().mean()),
            "dense": float((counts > _DENSE * len(self._rows)).float().mean()),
        }


class _SplicedLosses:
    """The subject's losses on some held-out windows with reconstructions spliced in."""

    def __init__(self, subject: Subject, corpus: Corpus) -> None:
        self.subject = subject
        windows = some_windows(corpus, _WINDOWS, 0)
        parts = np.array_split(windows, -(-len(windows) // _BATCH_WINDOWS))
        self.batches = [Batch.of(corpus, part, subject.device) for part in parts]
        self.tokens = sum(int(batch.scored.sum()) for batch in self.batches)
        self._clean: dict[int, Tensor] = {}
        self._baselines: dict[str, tuple[float, float]] = {}

    def of(self, dictionary: Dictionary, mean: Float[Tensor, " width"]) -> dict[str, float]:
        """Increase and recovered shares."""
        mean = mean[-dictionary.d_out :].to(dictionary.directions)
        if not self._baselines:
            constants = {"mean": mean, "zero": torch.zeros_like(mean)}
            self._baselines = {name: self._under(splice(self.subject, dictionary, constant(put))) for name, put in constants.items()}
        apply = own(dictionary)
        ce, kl = self._under(splice(self.subject, dictionary, lambda rows: apply(rows)[0]))
        found = {"ce_increase": ce - self.clean_ce, "kl": kl}
        for name, (ablated_ce, ablated_kl) in self._baselines.items():
            found[f"ce_recovered_{name}"] = (ablated_ce - ce) / (ablated_ce - self.clean_ce)
            found[f"kl_recovered_{name}"] = 1 - kl / ablated_kl
        return found

    @cached_property
    def clean_ce(self) -> float:
        """Cross-entropy of the subject as it is, in nats a token."""
        return self._under(None)[0]

    def _under(self, put: Splice | None) -> tuple[float, float]:
        """Cross-entropy and KL with something put in the place of activations, in nats a token."""
        sums = np.zeros(2)
        for number, batch in enumerate(self.batches):
            clean = self._predictions(number)
            logits = self.subject.logits(batch.ids, put(batch.ids), batch.counted) if put else clean
            sums += [sum(found) for found in loss_sums(logits, clean, batch)]
        ce, kl = sums / self.tokens
        return float(ce), float(kl)

    def _predictions(self, number: int) -> Tensor:
        """The clean predictions of a batch."""
        if number in self._clean:
            return self._clean[number]
        clean = self.subject.logits(self.batches[number].ids)
        if clean.nbytes * len(self.batches) <= _KEPT_BYTES:
            self._clean[number] = clean
        return clean
