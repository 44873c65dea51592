"""Stability: how much of a dictionary another one finds again, such as the same training from another seed.

- By direction: features are matched one to one so that Σ cos of decoder rows is largest (Hungarian algorithm). The mean over matches, and
  the share above 0.7 (Paulo and Belrose 2025, https://arxiv.org/abs/2501.16615). MMCS is the mean largest cosine without one-to-one
  (Sharkey et al. 2022). Null: as many random directions.
- By activation: the largest Pearson correlation of each feature's activations with those of any feature of the other dictionary, on the
  same held-out tokens. Null: the other's tokens in another order.

Features that never fire on these tokens are left out. High stability does not make a feature true: two trainings can share an error.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from saelab.analyses.base import ANALYSES, Analysis
from saelab.analyses.rows import CodeMatrix, codes_of, sample_rows
from saelab.dictionary import Dictionary, load_dictionary
from saelab.errors import Invalid, NotFound
from saelab.estimates import ratio
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.reports import Chart, Measure, Report, Series
from saelab.values import value

_SHARED = 0.7
_PART = 512
_BANDS = 20


@ANALYSES.register("stability")
@value
class Stability(Analysis):
    """Matches the features of two dictionaries of one hook, by direction and by activation."""

    other: str | None = None
    """The dictionary of the same run to compare with; none for the only other one."""
    rows: int = 20_000
    """Held-out tokens."""
    features: int = 4096
    """Features of the dictionary that are matched, at most: a random choice of those that fire."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `NotFound` where there is no other dictionary, `Invalid` where it was trained on other activations."""
        other = self._other(lab)
        rows = sample_rows(lab, self.rows, self.seed, held_out=True)
        codes = [codes_of(one, rows.x) for one in (lab.dictionary, other)]
        draw = np.random.default_rng(self.seed)
        own = draw.permutation(_firing(codes[0]))[: self.features]
        found, others = np.sort(own), _firing(codes[1])
        if not len(found) or not len(others):
            raise Invalid("One of the dictionaries never fires on held-out tokens, so there is nothing to match.")
        first, second = (_unit(one.directions, kept) for one, kept in ((lab.dictionary, found), (other, others)))
        random = functional.normalize(torch.randn(second.shape, generator=torch.Generator().manual_seed(self.seed)).double(), dim=1)
        matched, null = _matched(first, second), _matched(first, random)
        most, most_null = (_largest(first, against) for against in (second, random))
        together = _correlated(codes[0][:, found], codes[1][:, others])
        apart = _correlated(codes[0][:, found], codes[1][draw.permutation(len(rows))][:, others])
        directions, order = "random directions", "tokens of the other in another order"
        pairs = {
            "matched_cosine": (matched, null, directions),
            "mmcs": (most, most_null, directions),
            "found_again": ((matched > _SHARED).astype(float), (null > _SHARED).astype(float), directions),
            "activation_correlation": (together, apart, order),
            "activations_found_again": ((together > _SHARED).astype(float), (apart > _SHARED).astype(float), order),
        }
        measures = tuple(
            Measure(name=name, estimate=self._mean(values), null=self._mean(control), null_is=null_is)
            for name, (values, control, null_is) in pairs.items()
        )
        series = tuple(
            _spread(name, values) for name, values in (("matched cosine", matched), ("correlation", together), ("control", null))
        )
        chart = Chart(title="Features found again", kind="line", x="cosine or correlation", y="share of features", series=series)
        return Report(question="How much of the dictionary does another one find again?", measures=measures, charts=(chart,))

    def _other(self, lab: Lab) -> Dictionary:
        names = [name for name in lab.run.sources() if name != lab.source]
        if self.other is None and len(names) != 1:
            raise NotFound(
                f"Name the dictionary to compare {lab.source} with, with --other: there is {', '.join(names) or 'none yet'}. Another seed: "
                f"saelab train {lab.run.path} --source again --train.seed 1"
            )
        folder = lab.run.find_source(self.other or names[0])
        folder.need("train")
        other = load_dictionary(folder.path).eval().requires_grad_(False)
        same = other.provenance is not None and other.provenance.row_hooks == lab.origin.row_hooks
        if folder.path.name == lab.source or not same or other.d_in != lab.dictionary.d_in:
            raise Invalid(f"{folder.path.name} is not another dictionary of the activations that {lab.source} was trained on.")
        return other

    def _mean(self, values: Float[np.ndarray, " feature"]) -> Estimate:
        return ratio(values, np.ones(len(values)), np.arange(len(values)), self.seed)


def _firing(codes: CodeMatrix) -> Int[np.ndarray, " some"]:
    return np.flatnonzero(np.diff(codes.tocsc().indptr))


def _unit(directions: Float[Tensor, "feature d"], kept: Int[np.ndarray, " some"]) -> Float[Tensor, "some d"]:
    return functional.normalize(directions.detach().double().cpu()[torch.from_numpy(kept)], dim=1)


def _matched(first: Float[Tensor, "feature d"], second: Float[Tensor, "other d"]) -> Float[np.ndarray, " feature"]:
    """Cosine of each feature with its partner; 0 without one."""
    cosines = (first @ second.T).numpy()
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    found = np.zeros(len(first))
    found[rows] = cosines[rows, columns]
    return found


def _largest(first: Float[Tensor, "feature d"], second: Float[Tensor, "other d"]) -> Float[np.ndarray, " feature"]:
    return torch.cat([(part @ second.T).max(1).values for part in first.split(_PART)]).numpy()


def _correlated(first: CodeMatrix, second: CodeMatrix) -> Float[np.ndarray, " feature"]:
    """The largest correlation of each column with any column of the other, a part at a time."""
    rows = first.shape[0]
    means, deviations = zip(*(_moments(one) for one in (first, second)), strict=True)
    found: list[np.ndarray] = []
    for begin in range(0, first.shape[1], _PART):
        part = slice(begin, begin + _PART)
        products = (first[:, part].T @ second).toarray() / rows
        covariances = products - np.outer(means[0][part], means[1])
        found.append((covariances / np.outer(deviations[0][part], deviations[1])).max(1))
    return np.concatenate(found)


def _moments(codes: CodeMatrix) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
    mean = np.asarray(codes.mean(0)).ravel()
    square = np.asarray((codes * codes).mean(0)).ravel()
    return mean, np.sqrt(np.maximum(square - mean**2, 1e-24))


def _spread(name: str, values: Float[np.ndarray, " feature"]) -> Series:
    counts = np.histogram(np.clip(values, 0, 1), _BANDS, (0, 1))[0] / len(values)
    return Series(name=name, x=tuple((i + 0.5) / _BANDS for i in range(_BANDS)), y=tuple(counts.tolist()))
