"""Meta-structure: whether the directions of a dictionary are themselves made of fewer directions, or crowd together.

- A small BatchTopK SAE is trained on nine tenths of the decoder's rows, four features a row; the variance that it explains of the last
  tenth says how much the features share. The null is the same on as many random directions. SAEBench fits and judges on the same rows,
  where memory looks like structure.
- Crowded: the share of features whose nearest neighbour's |cosine| exceeds the 99 % quantile among random directions.

Leask et al. 2025, "Sparse autoencoders do not find canonical units of analysis", https://arxiv.org/abs/2502.04878. Lower shared variance
means more atomic features.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saelab.analyses.base import ANALYSES, Analysis
from saelab.errors import Invalid
from saelab.estimates import ratio, share
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.reports import Chart, Measure, Report, Series
from saelab.saes.batchtopk import BatchTopK
from saelab.training import TrainConfig, Trainer
from saelab.values import value

_PART = 2048
_BATCH = 1024
_BANDS = 20


@ANALYSES.register("structure")
@value
class Structure(Analysis):
    """How much of the decoder a meta-SAE explains on rows that it has not seen, and how many features are crowded."""

    share: int = 4
    """Features of the dictionary for each feature of the meta-SAE."""
    k: int = 4
    """Meta-features a row."""
    steps: int = 500
    """Training steps of the meta-SAE."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `Invalid` for a dictionary of fewer than 40 features, or settings below 1."""
        rows = functional.normalize(lab.dictionary.directions.float().cpu(), dim=1)
        if len(rows) < 40 or min(self.share, self.k, self.steps) < 1:
            raise Invalid("The dictionary must have 40 features or more, and share, k and steps must be 1 or more.")
        draw = torch.Generator().manual_seed(self.seed)
        random = functional.normalize(torch.randn(rows.shape, generator=draw), dim=1)
        nearest, null = _nearest(rows), _nearest(random)
        limit = float(null.quantile(0.99))
        measures = (
            Measure(
                name="meta_explained_variance", estimate=self._explained(rows), null=self._explained(random), null_is="random directions"
            ),
            Measure(
                name="crowded",
                estimate=share(int((nearest > limit).sum()), len(rows)),
                null=share(int((null > limit).sum()), len(rows)),
                null_is="random directions",
            ),
        )
        series = (_spread("features", nearest), _spread("control random", null))
        chart = Chart(
            title="Nearest neighbours", kind="line", x="|cosine| of the nearest other feature", y="share of features", series=series
        )
        return Report(question="Are the directions made of fewer directions?", measures=measures, charts=(chart,))

    def _explained(self, rows: Float[Tensor, "feature d"]) -> Estimate:
        """Variance of the last tenth of the rows, in random order, that a meta-SAE of the others explains."""
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))]
        fitted, unseen = rows[len(rows) // 10 :], rows[: len(rows) // 10]
        d_sae = max(self.k, len(rows) // self.share)
        sae = BatchTopK(rows.shape[1], BatchTopK.Config(d_sae=d_sae, k=self.k))

        def batches(start: int) -> Iterator[Tensor]:
            for step in range(start, self.steps):
                order = torch.Generator().manual_seed(step)
                yield fitted[torch.randint(len(fitted), (_BATCH,), generator=order)]

        Trainer(sae, TrainConfig(steps=self.steps, batch_size=_BATCH, lr=1e-3, seed=self.seed)).fit(batches)
        with torch.no_grad():
            written = sae.decode(sae.encode(unseen))
        error = (unseen - written).double().square().sum(1).numpy()
        spread = (unseen - fitted.mean(0)).double().square().sum(1).numpy()
        return ratio(spread - error, spread, np.arange(len(unseen)), self.seed)


def _nearest(rows: Float[Tensor, "feature d"]) -> Float[Tensor, " feature"]:
    """|cosine| of each unit row's nearest other row, a part of them at a time."""
    found: list[Tensor] = []
    for begin in range(0, len(rows), _PART):
        cosines = (rows[begin : begin + _PART] @ rows.T).abs()
        own = torch.arange(len(cosines))
        cosines[own, own + begin] = 0
        found.append(cosines.max(1).values)
    return torch.cat(found)


def _spread(name: str, values: Float[Tensor, " feature"]) -> Series:
    counts = torch.histc(values, _BANDS, 0, 1) / len(values)
    return Series(name=name, x=tuple((i + 0.5) / _BANDS for i in range(_BANDS)), y=tuple(counts.tolist()))
