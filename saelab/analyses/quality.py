"""Quality of a dictionary, on documents that it was never trained on.

- FVU = sum |x - x^|^2 / sum |x - mean|^2, sums in float64: 1 for predicting the mean, unchanged when x is scaled.
- CE: next-token loss with the reconstruction spliced in at the hook. Predictions from the first position are left out; positions that
  do not count and massive activations pass through untouched. CE recovered is against replacing activations by their mean; the increase
  in nats says more.
- A transcoder is measured where it writes; its controls read what it should write. A crosscoder is measured at all of its hooks, each of
  which weighs the same in the FVU, and all of which are spliced at once. Of pooled hooks, losses are those at the first.
- A dictionary of bare vectors, which come from no text, has no next-token losses: only FVU, L0, dead and dense features.
- Controls: random directions and principal components at the same number of active features, on the same tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.base import ActivationStore
from saelab.activations.shuffle import first_rows
from saelab.analyses.detection import detection
from saelab.analyses.losses import Batch, loss_sums, some_windows
from saelab.analyses.rows import documents_of
from saelab.analyses.splices import Apply, Splice, constant, control, own, splice
from saelab.baselines.pca import PCA
from saelab.baselines.random import Random
from saelab.dictionary import Dictionary
from saelab.errors import Invalid
from saelab.estimates import ratio, share
from saelab.lab import Lab
from saelab.progress import track
from saelab.records import Estimate, Quality
from saelab.values import value


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
    target = sample[:, -lab.dictionary.d_out :]
    mean, unit = target.mean(0), units(lab.dictionary, target)
    explained = _explained(lab, lab.store, own(lab.dictionary), mean, config.seed)
    k = max(1, min(round(explained.l0.value), lab.dictionary.d_out))
    controls = controls_for(lab.dictionary, target, unit, k, config.seed)
    fired, rows = firing(lab, config.alive_rows)
    quality = Quality(
        fvu=explained.fvu,
        l0=explained.l0,
        hook_fvu=_at_each_hook(lab, explained, config),
        dead=share(int((fired == 0).sum()), lab.dictionary.d_sae),
        dense=share(int((fired > 0.1 * rows).sum()), lab.dictionary.d_sae),
        controls={name: _explained(lab, lab.store, found, mean, config.seed).fvu.value for name, found in controls.items()},
        control_ce_increase={},
    )
    quality = replace(quality, **detection(lab, config.seed))
    return quality if lab.vectors is not None else _with_losses(quality, lab, mean, controls, config)


def _with_losses(
    quality: Quality, lab: Lab, mean: Float[Tensor, " d_out"], controls: Mapping[str, Apply], config: EvaluateConfig
) -> Quality:
    """The same with next-token losses, which only a dictionary of a subject's activations has."""
    applied = {"spliced": own(lab.dictionary), **controls}
    splices: dict[str, Splice] = {
        "clean": lambda _: {},
        "mean": splice(lab.subject, lab.dictionary, constant(mean)),
        "zero": splice(lab.subject, lab.dictionary, constant(torch.zeros_like(mean))),
        **{name: splice(lab.subject, lab.dictionary, lambda rows, apply=apply: apply(rows)[0]) for name, apply in applied.items()},
    }
    losses = _losses(lab, splices, config)
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


@dataclass(frozen=True)
class _Explained:
    """How much of the held-out activations is explained, and with how many features."""

    fvu: Estimate
    l0: Estimate
    by_hook: tuple[float, ...]


@torch.inference_mode()
def _explained(lab: Lab, store: ActivationStore, apply: Apply, mean: Float[Tensor, " d_out"], seed: int) -> _Explained:
    """FVU and L0 on the held-out activations of a store."""
    document, widths = torch.from_numpy(documents_of(lab)), lab.dictionary.widths
    size = int(document.max()) + 1
    active, tokens = (torch.zeros(size, dtype=torch.float64) for _ in range(2))
    error, spread = (torch.zeros(size, len(widths), dtype=torch.float64) for _ in range(2))
    for chunk in store.chunks(held_out=True):
        x, at = chunk.x.float(), document[chunk.window.long()]
        target, (written, codes) = x[:, -len(mean) :], apply(x)
        for sums, gap in ((error, target - written), (spread, target - mean)):
            sums.index_add_(0, at, torch.stack([part.double().square().sum(-1) for part in gap.split(widths, dim=-1)], dim=-1))
        active.index_add_(0, at, codes.l0().double())
        tokens.index_add_(0, at, torch.ones(len(x), dtype=torch.float64))
    if not tokens.sum():
        raise Invalid(
            "No held-out document has activations, so the quality cannot be measured. Read a larger corpus (about 10 % is held out)."
        )
    seen = np.flatnonzero(tokens.numpy())
    total = spread.sum(0).clamp(min=torch.finfo(spread.dtype).tiny)
    weight = total.mean() / total  # each hook weighs the same
    parts = [part.numpy()[seen] for part in (error @ weight, spread @ weight, active, tokens)]
    by_hook = tuple((error.sum(0) / total).tolist())
    return _Explained(ratio(parts[0], parts[1], seen, seed), ratio(parts[2], parts[3], seen, seed), by_hook)


def controls_for(
    dictionary: Dictionary, target: Float[Tensor, "row d_out"], unit: Float[Tensor, " d_out"], k: int, seed: int
) -> dict[str, Apply]:
    """What random directions and principal components write with k active features a row, fitted on a sample of the target."""
    return {
        "random": control(Random.fit(target / unit, d_sae=dictionary.d_sae, k=k, seed=seed), unit),
        "pca": control(PCA.fit(target / unit, k=k), unit),
    }


def units(dictionary: Dictionary, target: Float[Tensor, "row d_out"]) -> Float[Tensor, " d_out"]:
    """Units in which each of several hooks has the same variance; 1 where there is one."""
    widths = dictionary.widths
    if len(widths) == 1:
        return torch.ones(target.shape[1])
    norms = [(part - part.mean(0)).square().sum(1).mean().sqrt() for part in target.split(widths, dim=1)]
    return torch.stack(norms).repeat_interleave(torch.tensor(widths))


def _at_each_hook(lab: Lab, explained: _Explained, config: EvaluateConfig) -> dict[str, float]:
    """FVU at each hook of a dictionary that has several."""
    hooks = lab.origin.hooks
    if not lab.origin.pooled:
        written = lab.origin.written_hooks
        return dict(zip(written, explained.by_hook, strict=True)) if len(written) > 1 else {}
    found: dict[str, float] = {}
    for hook in hooks:
        store = lab.store_of((hook,))
        mean = first_rows(store, config.fit_rows, config.seed).mean(0)
        found[hook] = _explained(lab, store, own(lab.dictionary), mean, config.seed).fvu.value
    return found


@torch.inference_mode()
def firing(lab: Lab, alive_rows: int) -> tuple[Int[Tensor, " d_sae"], int]:
    """How often each feature fires on the held-out activations and on some training ones, and on how many rows."""
    counts, rows, training = torch.zeros(lab.dictionary.d_sae, dtype=torch.long), 0, 0
    for held_out in (True, False):
        for chunk in lab.store.chunks(held_out=held_out):
            codes = lab.dictionary.encode(chunk.x[:, : lab.dictionary.d_in].float())
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


@torch.inference_mode()
def _losses(lab: Lab, splices: Mapping[str, Splice], config: EvaluateConfig) -> _Losses:
    windows = some_windows(lab.corpus, config.windows, config.seed)
    ce: dict[str, list[float]] = {name: [] for name in splices}
    kl: dict[str, list[float]] = {name: [] for name in splices}
    tokens: list[float] = []
    batches = np.array_split(windows, -(-len(windows) // config.batch_windows))
    for part in track(batches, stage="evaluate", total=len(windows), unit="windows", size=config.batch_windows):
        batch = Batch.of(lab.corpus, part, lab.subject.device)
        tokens.extend(batch.scored.sum(-1).tolist())
        clean = lab.subject.logits(batch.ids)
        for name, make in splices.items():
            edits = make(batch.ids)
            sums = loss_sums(lab.subject.logits(batch.ids, edits, batch.counted) if edits else clean, clean, batch)
            ce[name].extend(sums[0])
            kl[name].extend(sums[1])
    arrays = [{name: np.array(sums) for name, sums in group.items()} for group in (ce, kl)]
    return _Losses(arrays[0], arrays[1], np.array(tokens), lab.corpus.window_document[windows], config.seed)
