"""Quality of a dictionary, on documents that it was never trained on.

- FVU = sum |x - x^|^2 / sum |x - mean|^2, sums in float64: 1 for predicting the mean, unchanged when x is scaled.
- CE: next-token loss with the reconstruction spliced in at the hook. Predictions from the first position are left out; positions that
  do not count and massive activations pass through untouched. CE recovered is against replacing activations by their mean; the increase
  in nats says more.
- A dictionary of bare vectors, which come from no text, has no next-token losses: only FVU, L0, dead and dense features.
- Controls: random directions and principal components at the same number of active features, on the same tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.shuffle import first_rows
from saelab.analyses.losses import Batch, loss_sums, replacement, some_windows, splice
from saelab.baselines.pca import PCA
from saelab.baselines.random import Random
from saelab.dictionary import Dictionary
from saelab.errors import Invalid
from saelab.estimates import ratio, share
from saelab.lab import Lab
from saelab.progress import track
from saelab.records import Estimate, Quality
from saelab.subject import Edits
from saelab.values import value

_STRETCHES = 1000
"""Stretches of a file of bare vectors that intervals are resampled over, at most."""


@value
class EvaluateConfig:
    """How the quality of a dictionary is measured."""

    windows: int = 96
    """Held-out windows for the losses with the reconstruction spliced in."""
    alive_rows: int = 200_000
    """Training activations looked at, beside all held-out ones, for features that never fire."""
    fit_rows: int = 50_000
    """Training activations that the mean and the controls are fitted on."""
    batch_windows: int = 8
    """Windows in a forward pass."""
    seed: int = 0
    """Seed of the choice of windows, of the random control and of the bootstrap."""


def evaluate(lab: Lab, config: EvaluateConfig) -> Quality:
    """The quality of the lab's dictionary beside its controls. Raises `Invalid` for a config or a corpus that will not do."""
    for name, least in {"windows": 2, "fit_rows": 1, "batch_windows": 1, "seed": 0}.items():
        if getattr(config, name) < least:
            raise Invalid(f"{name} is {getattr(config, name)}; it must be {least} or more.")
    sample = first_rows(lab.store, config.fit_rows, config.seed)
    mean = sample.mean(0)
    fvu, l0 = _reconstruction(lab, lab.dictionary, mean, config.seed)
    k = max(1, min(round(l0.value), lab.dictionary.d_in))
    controls: dict[str, Dictionary] = {
        "random": Random.fit(sample, d_sae=lab.dictionary.d_sae, k=k, seed=config.seed),
        "pca": PCA.fit(sample, k=k),
    }
    firing, rows = _firing(lab, config.alive_rows)
    quality = Quality(
        fvu=fvu,
        l0=l0,
        dead=share(int((firing == 0).sum()), lab.dictionary.d_sae),
        dense=share(int((firing > 0.1 * rows).sum()), lab.dictionary.d_sae),
        controls={name: _reconstruction(lab, control, mean, config.seed)[0].value for name, control in controls.items()},
        control_ce_increase={},
    )
    return quality if lab.vectors is not None else _with_losses(quality, lab, mean, controls, config)


def _with_losses(
    quality: Quality, lab: Lab, mean: Float[Tensor, " d_in"], controls: Mapping[str, Dictionary], config: EvaluateConfig
) -> Quality:
    """The same with next-token losses, which only a dictionary of a subject's activations has."""
    edits: dict[str, Edits] = {
        "clean": {},
        "spliced": {lab.hook: splice(lab.dictionary)},
        "mean": {lab.hook: replacement(lab.dictionary, mean)},
        "zero": {lab.hook: replacement(lab.dictionary, torch.zeros_like(mean))},
        **{name: {lab.hook: splice(control, lab.dictionary)} for name, control in controls.items()},
    }
    losses = _losses(lab, edits, config)
    return replace(
        quality,
        ce_clean=losses.mean("clean"),
        ce_spliced=losses.mean("spliced"),
        ce_increase=losses.increase("spliced"),
        ce_mean_ablated=losses.mean("mean"),
        ce_zero_ablated=losses.mean("zero"),
        ce_recovered=losses.recovered(losses.ce["mean"] - losses.ce["spliced"], losses.ce["mean"] - losses.ce["clean"]),
        kl=losses.recovered(losses.kl["spliced"], losses.tokens),
        kl_recovered=losses.recovered(losses.kl["mean"] - losses.kl["spliced"], losses.kl["mean"]),
        control_ce_increase={name: losses.increase(name).value for name in controls},
    )


@torch.inference_mode()
def _reconstruction(lab: Lab, dictionary: Dictionary, mean: Float[Tensor, " d_in"], seed: int) -> tuple[Estimate, Estimate]:
    """FVU and L0 on the held-out activations."""
    document = _documents(lab)
    size = int(document.max()) + 1
    error, spread, active, tokens = (torch.zeros(size, dtype=torch.float64) for _ in range(4))
    for chunk in lab.store.chunks(held_out=True):
        x, at = chunk.x.float(), document[chunk.window.long()]
        codes = dictionary.encode(x)
        error.index_add_(0, at, (x - dictionary.decode(codes)).double().square().sum(-1))
        spread.index_add_(0, at, (x - mean).double().square().sum(-1))
        active.index_add_(0, at, codes.l0().double())
        tokens.index_add_(0, at, torch.ones(len(x), dtype=torch.float64))
    if not tokens.sum():
        raise Invalid(
            "No held-out document has activations, so the quality cannot be measured. Read a larger corpus (about 10 % is held out)."
        )
    seen = np.flatnonzero(tokens.numpy())
    parts = [part.numpy()[seen] for part in (error, spread, active, tokens)]
    return ratio(parts[0], parts[1], seen, seed), ratio(parts[2], parts[3], seen, seed)


def _documents(lab: Lab) -> Int[Tensor, " window"]:
    """What each window is resampled with: its document; among bare vectors, its neighbours in the file."""
    if lab.vectors is None:
        return torch.from_numpy(lab.corpus.window_document.astype(np.int64))
    return torch.arange(lab.store.num_rows) * min(_STRETCHES, lab.store.num_rows) // lab.store.num_rows


@torch.inference_mode()
def _firing(lab: Lab, alive_rows: int) -> tuple[Tensor, int]:
    """How often each feature fires on the held-out activations and on some training ones, and on how many rows."""
    counts, rows, training = torch.zeros(lab.dictionary.d_sae, dtype=torch.long), 0, 0
    for held_out in (True, False):
        for chunk in lab.store.chunks(held_out=held_out):
            codes = lab.dictionary.encode(chunk.x.float())
            counts += torch.bincount(codes.indices[codes.values != 0], minlength=len(counts))
            rows += len(chunk.x)
            training += 0 if held_out else len(chunk.x)
            if training >= alive_rows:
                break
    return counts, rows


@dataclass(frozen=True)
class _Losses:
    """Sums a window of the losses under each edit."""

    ce: Mapping[str, Float[np.ndarray, " window"]]
    kl: Mapping[str, Float[np.ndarray, " window"]]
    tokens: Float[np.ndarray, " window"]
    documents: np.ndarray
    seed: int

    def mean(self, name: str) -> Estimate:
        return ratio(self.ce[name], self.tokens, self.documents, self.seed)

    def increase(self, name: str) -> Estimate:
        return ratio(self.ce[name] - self.ce["clean"], self.tokens, self.documents, self.seed)

    def recovered(self, top: np.ndarray, bottom: np.ndarray) -> Estimate:
        return ratio(top, bottom, self.documents, self.seed)


def _losses(lab: Lab, edits: Mapping[str, Edits], config: EvaluateConfig) -> _Losses:
    windows = some_windows(lab.corpus, config.windows, config.seed)
    ce: dict[str, list[float]] = {name: [] for name in edits}
    kl: dict[str, list[float]] = {name: [] for name in edits}
    tokens: list[float] = []
    batches = np.array_split(windows, -(-len(windows) // config.batch_windows))
    for part in track(batches, stage="evaluate", total=len(windows), unit="windows", size=config.batch_windows):
        batch = Batch.of(lab.corpus, part, lab.subject.device)
        tokens.extend(batch.scored.sum(-1).tolist())
        clean = lab.subject.logits(batch.ids)
        for name, edit in edits.items():
            sums = loss_sums(lab.subject.logits(batch.ids, edit, batch.counted) if edit else clean, clean, batch)
            ce[name].extend(sums[0])
            kl[name].extend(sums[1])
    arrays = [{name: np.array(sums) for name, sums in group.items()} for group in (ce, kl)]
    return _Losses(arrays[0], arrays[1], np.array(tokens), lab.corpus.window_document[windows], config.seed)
