"""Core metrics: how much of the activations a dictionary keeps, and how much of the subject's predictions; whole and in parts.

    explained variance   1 - Σ |x - x̂|² / Σ |x - mean|²          cosine   Σ cos(x, x̂) / n          norm ratio   Σ |x̂| / |x| / n
    recovered            (loss_ablated - loss_spliced) / (loss_ablated - loss_clean), ablated: every activation is its mean, or zero
    kl recovered         1 - KL_spliced / KL_ablated

All sums in float64, over tokens of documents that were never trained on; intervals are bootstraps over documents. The null is a dictionary
of random directions with as many active features. Several hooks weigh the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saelab.activations.shuffle import first_rows
from saelab.analyses.base import ANALYSES, Analysis
from saelab.analyses.losses import Batch, some_windows, token_losses
from saelab.analyses.quality import controls_for, firing, units
from saelab.analyses.rows import Rows, sample_rows
from saelab.analyses.splices import Apply, Splice, constant, own, splice
from saelab.errors import Invalid
from saelab.estimates import ratio, share
from saelab.features.vocabulary import SHAPES, Vocabulary
from saelab.lab import Lab
from saelab.progress import track
from saelab.records import Estimate
from saelab.reports import Cell, Chart, Measure, Report, Series, Table
from saelab.values import value

_PART = 4096
_NULL = "random directions at the same L0"
_MIN_DOCUMENTS = 5
"""A part of the tokens that lies in fewer documents is not shown: its interval would mean nothing."""
Split = Mapping[str, Bool[np.ndarray, " token"]]
"""Parts of the tokens by name."""


@ANALYSES.register("core")
@value
class Core(Analysis):
    """Explained variance, sparsity and losses recovered, whole and by kind of token, position and domain."""

    rows: int = 50_000
    """Held-out activations for variance, cosine and L0."""
    windows: int = 96
    """Held-out windows for the losses with the reconstruction spliced in."""
    batch_windows: int = 8
    """Windows in a forward pass."""
    fit_rows: int = 50_000
    """Training activations that the mean and the null are fitted on."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `Invalid` for a corpus without held-out documents or a config that cannot be."""
        if min(self.windows - 1, self.batch_windows, self.fit_rows) < 1:
            raise Invalid("windows must be 2 or more, batch_windows and fit_rows 1 or more.")
        sample = first_rows(lab.store, self.fit_rows, self.seed)[:, -lab.dictionary.d_out :]
        mean, unit = sample.mean(0), units(lab.dictionary, sample)
        rows = sample_rows(lab, self.rows, self.seed, held_out=True)
        kept = reconstruction(rows.x, own(lab.dictionary), mean, unit)
        k = max(1, min(round(float(kept.l0.mean())), lab.dictionary.d_out))
        random = controls_for(lab.dictionary, sample, unit, k, self.seed)["random"]
        null = reconstruction(rows.x, random, mean, unit)
        measures = [*_kept_measures(kept, null, rows.document, self.seed), *_firing_measures(lab)]
        if lab.vectors is not None:
            return Report(question=_QUESTION, measures=tuple(measures), notes=("Bare vectors have no next-token losses.",))
        losses = self._losses(lab, {"spliced": own(lab.dictionary), "random": random}, mean)
        measures += _loss_measures(losses, self.seed)
        tables, charts = _parts(lab, rows, kept, losses, self.seed)
        return Report(question=_QUESTION, measures=tuple(measures), tables=tables, charts=charts)

    def _losses(self, lab: Lab, applied: Mapping[str, Apply], mean: Float[torch.Tensor, " d_out"]) -> "_Losses":
        """The losses at every scored token of some held-out windows, under each replacement."""
        splices: dict[str, Splice] = {
            "clean": lambda _: {},
            "mean": splice(lab.subject, lab.dictionary, constant(mean)),
            "zero": splice(lab.subject, lab.dictionary, constant(torch.zeros_like(mean))),
            **{name: splice(lab.subject, lab.dictionary, lambda rows, apply=apply: apply(rows)[0]) for name, apply in applied.items()},
        }
        windows = some_windows(lab.corpus, self.windows, self.seed)
        ce, kl = ({name: list[np.ndarray]() for name in splices} for _ in range(2))
        places: list[np.ndarray] = []
        batches = np.array_split(windows, -(-len(windows) // self.batch_windows))
        for part in track(batches, stage="analyse", total=len(windows), unit="windows", size=self.batch_windows):
            batch = Batch.of(lab.corpus, part, lab.subject.device)
            row, position = (index.numpy() for index in batch.scored.cpu().nonzero(as_tuple=True))
            places.append(np.stack([part[row], position]))
            clean = lab.subject.logits(batch.ids)
            for name, make in splices.items():
                edits = make(batch.ids)
                found = token_losses(lab.subject.logits(batch.ids, edits, batch.counted) if edits else clean, clean, batch)
                ce[name].append(torch.cat([loss for loss, _ in found]).cpu().numpy())
                kl[name].append(torch.cat([gap for _, gap in found]).cpu().numpy())
        window, position = np.concatenate(places, axis=1)
        joined = [{name: np.concatenate(parts) for name, parts in group.items()} for group in (ce, kl)]
        return _Losses(joined[0], joined[1], window, position, lab.corpus.window_document[window])


_QUESTION = "How much of the activations and of the subject's predictions does the dictionary keep?"


@dataclass(frozen=True)
class Kept:
    """What is kept of each row."""

    error: Float[np.ndarray, " row"]
    """|x - x̂|²."""
    spread: Float[np.ndarray, " row"]
    """|x - mean|²."""
    cosine: Float[np.ndarray, " row"]
    """cos(x, x̂)."""
    norm_ratio: Float[np.ndarray, " row"]
    """|x̂| / |x|."""
    l0: Float[np.ndarray, " row"]
    """Active features."""


@torch.inference_mode()
def reconstruction(
    x: Float[torch.Tensor, "row width"], apply: Apply, mean: Float[torch.Tensor, " d_out"], unit: Float[torch.Tensor, " d_out"]
) -> Kept:
    """What is kept of each row, in float64: all after division by `unit`.

    Arguments:
    - `x`: training rows, their target last.
    - `mean`: of the target, on training rows.
    """
    found: list[torch.Tensor] = []
    for part in x.split(_PART):
        target = part[:, -len(mean) :]
        written, codes = apply(part)
        true, y, centre = ((one / unit).double() for one in (target, written, mean.expand_as(target)))
        sums = [(true - y).square().sum(1), (true - centre).square().sum(1), torch.cosine_similarity(true, y, dim=1)]
        found.append(torch.stack([*sums, y.norm(dim=1) / true.norm(dim=1).clamp(min=1e-12), codes.l0().double()]))
    return Kept(*torch.cat(found, dim=1).numpy())


def _kept_measures(kept: Kept, null: Kept, documents: Int[np.ndarray, " row"], seed: int) -> list[Measure]:
    def measures(one: Kept) -> dict[str, Estimate]:
        ones = np.ones_like(one.l0)
        return {
            "explained_variance": ratio(one.spread - one.error, one.spread, documents, seed),
            "fvu": ratio(one.error, one.spread, documents, seed),
            "cosine": ratio(one.cosine, ones, documents, seed),
            "norm_ratio": ratio(one.norm_ratio, ones, documents, seed),
            "l0": ratio(one.l0, ones, documents, seed),
        }

    controls = measures(null)
    return [Measure(name=name, estimate=own, null=controls[name], null_is=_NULL) for name, own in measures(kept).items()]


def _firing_measures(lab: Lab) -> list[Measure]:
    fired, rows = firing(lab, alive_rows=200_000)
    limits = {"dead": fired == 0, "dense_1_percent": fired > 0.01 * rows, "dense_10_percent": fired > 0.1 * rows}
    return [Measure(name=name, estimate=share(int(mask.sum()), lab.dictionary.d_sae)) for name, mask in limits.items()]


@dataclass(frozen=True)
class _Losses:
    """Losses at each scored token under each replacement."""

    ce: Mapping[str, Float[np.ndarray, " token"]]
    kl: Mapping[str, Float[np.ndarray, " token"]]
    window: Int[np.ndarray, " token"]
    position: Int[np.ndarray, " token"]
    document: Int[np.ndarray, " token"]


def _loss_measures(losses: _Losses, seed: int) -> list[Measure]:
    ce, kl, ones = losses.ce, losses.kl, np.ones(len(losses.window))

    def measures(put: str) -> dict[str, Estimate]:
        found = {"ce_increase": ratio(ce[put] - ce["clean"], ones, losses.document, seed)}
        for ablated in ("mean", "zero"):
            found[f"ce_recovered_{ablated}"] = ratio(ce[ablated] - ce[put], ce[ablated] - ce["clean"], losses.document, seed)
        found["kl"] = ratio(kl[put], ones, losses.document, seed)
        for ablated in ("mean", "zero"):
            found[f"kl_recovered_{ablated}"] = ratio(kl[ablated] - kl[put], kl[ablated], losses.document, seed)
        return found

    null = measures("random")
    levels = [
        Measure(name=f"ce_{name}", estimate=ratio(ce[name], ones, losses.document, seed)) for name in ("clean", "spliced", "mean", "zero")
    ]
    levels += [Measure(name=f"kl_{name}", estimate=ratio(kl[name], ones, losses.document, seed)) for name in ("mean", "zero")]
    return [*levels, *(Measure(name=name, estimate=own, null=null[name], null_is=_NULL) for name, own in measures("spliced").items())]


def _parts(lab: Lab, rows: Rows, kept: Kept, losses: _Losses, seed: int) -> tuple[tuple[Table, ...], tuple[Chart, ...]]:
    """The same numbers on parts of the tokens: a table and a chart for each way to part them."""
    vocabulary = Vocabulary(lab.subject.vocabulary)
    of_rows = splits_of(lab, rows.window, rows.position, vocabulary)
    of_losses = splits_of(lab, losses.window, losses.position, vocabulary)
    tables: list[Table] = []
    charts: list[Chart] = []
    for title, split in of_rows.items():
        cells: list[tuple[Cell, ...]] = []
        for name, mask in split.items():
            other = of_losses[title].get(name)
            if len(np.unique(rows.document[mask])) < _MIN_DOCUMENTS:
                continue
            cells.append((name, int(mask.sum()), *_of_part(kept, rows.document, mask, seed), _increase(losses, other, seed)))
        columns = (title, "tokens", "fvu", "cosine", "l0", "ce_increase, nats")
        tables.append(Table(title=f"By {title}", columns=columns, rows=tuple(cells)))
        charts.append(_chart(title, cells))
    return tuple(tables), tuple(charts)


def _of_part(kept: Kept, documents: Int[np.ndarray, " row"], mask: Bool[np.ndarray, " row"], seed: int) -> tuple[Estimate, ...]:
    ones = np.ones(int(mask.sum()))
    pairs = ((kept.error, kept.spread), (kept.cosine, None), (kept.l0, None))
    return tuple(ratio(top[mask], ones if bottom is None else bottom[mask], documents[mask], seed) for top, bottom in pairs)


def _increase(losses: _Losses, mask: Bool[np.ndarray, " token"] | None, seed: int) -> Estimate | None:
    if mask is None or len(np.unique(losses.document[mask])) < _MIN_DOCUMENTS:
        return None
    return ratio((losses.ce["spliced"] - losses.ce["clean"])[mask], np.ones(int(mask.sum())), losses.document[mask], seed)


def _chart(title: str, cells: list[tuple[Cell, ...]]) -> Chart:
    fvus = [cell[2] for cell in cells if isinstance(cell[2], Estimate)]
    series = Series(
        name="fvu",
        x=tuple(str(cell[0]) for cell in cells),
        y=tuple(fvu.value for fvu in fvus),
        low=tuple(fvu.low for fvu in fvus),
        high=tuple(fvu.high for fvu in fvus),
    )
    return Chart(title=f"Variance unexplained by {title}", kind="bar", x=title, y="fvu", series=(series,))


def splits_of(
    lab: Lab, window: Int[np.ndarray, " token"], position: Int[np.ndarray, " token"], vocabulary: Vocabulary
) -> dict[str, dict[str, Bool[np.ndarray, " token"]]]:
    """Tokens parted by kind (the first class of `SHAPES` that fits), by the length of the context before them, and by domain."""
    known, place = np.unique(window, return_inverse=True)
    ids = lab.corpus.windows(known)[0][place, position]
    kinds: dict[str, np.ndarray] = {}
    left = np.ones(len(ids), np.bool_)
    for shape, (_, words) in SHAPES.items():
        kinds[words] = left & vocabulary.shape(shape)[ids]
        left &= ~kinds[words]
    kinds["other words"] = left
    bands = {0: "1-3", 1: "4-15", 2: "16-63", 3: "64-255", 4: "256-1023", 5: "1024 and more"}
    band = np.maximum(np.floor(np.log2(np.maximum(position, 1)) / 2), 0).astype(int)
    document = lab.corpus.window_document[window]
    domains = np.array([lab.corpus.document(number).domain for number in range(lab.corpus.num_documents)])[document]
    return {
        "kind of token": {name: mask for name, mask in kinds.items() if mask.any()},
        "tokens before": {name: mask for number, name in bands.items() if (mask := np.minimum(band, 5) == number).any()},
        "domain": {str(name): domains == name for name in np.unique(domains)},
    }
