"""Coverage: for how many features a label holds on held-out text, and for how many of controls that have learnt nothing.

Random directions and neurons can look as interpretable as a trained dictionary (arXiv 2501.17727 and 2602.14111), so the share for
the dictionary means something only beside theirs. They go through the same collection, labeller and scorer, at the same L0.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saelab.baselines.base import Baseline
from saelab.baselines.neurons import Neurons
from saelab.baselines.random import Random
from saelab.features.collect import Chunks, CollectConfig, Reader, collect_together, forget
from saelab.features.geometry import neighbours
from saelab.features.pool_vectors import copy_vectors
from saelab.features.statistics import proportion
from saelab.features.store import FeatureStore
from saelab.features.write import Geometry, write_features
from saelab.lab import Lab
from saelab.labellers.base import label_features
from saelab.labellers.rules import Rules
from saelab.records import Estimate, Score
from saelab.scorers.base import score_features
from saelab.scorers.rule_detection import RuleDetection
from saelab.values import from_dict, value

_LEVELS = (0.6, 0.7, 0.8, 0.9)


@value
class ControlsConfig:
    """How much is measured of each control."""

    features: int = 512
    """Features of each control that are labelled and scored, spread evenly over those that fire."""
    sample: int = 20_000
    """Training activations that the controls are fitted on."""
    seed: int = 0
    """Seed of the random directions."""


@value
class Coverage:
    """For how many features of a dictionary the rule of a label holds on held-out text."""

    alive: int
    """Features that fire and that were labelled."""
    labelled: Estimate
    """Share of them for which a rule was found."""
    proven: Estimate
    """Share of them whose label's lift over labels of other features has an interval above 0."""
    score: float
    """Mean AUROC over those with a label that was scored; 0.5 where there is none."""
    lift: float
    """Mean lift over those with one; 0 where there is none."""
    curve: dict[str, float]
    """Share of them whose label reaches an AUROC of 0.6, 0.7, 0.8, 0.9."""


def coverage(store: FeatureStore, labeller: str = "rules", scorer: str = "rule_detection") -> Coverage:
    """The coverage of one labeller's labels by one scorer's headline. Features that never fire, and failures to score, count for
    nothing.
    """
    density, labels = store.column("density"), store.labels(labeller)
    alive = [index for index in labels if density[index] > 0]
    heads: list[Score] = []
    for index in alive:
        heads += [score for score in store.scores(index, labeller) if score.scorer == scorer][:1]
    values = np.array([score.value for score in heads if score.value is not None])
    lifts = np.array([score.lift for score in heads if score.lift is not None])
    proven = sum(score.lift_low is not None and score.lift_low > 0 for score in heads)
    return Coverage(
        alive=len(alive),
        labelled=proportion(sum(labels[index].found for index in alive), len(alive)),
        proven=proportion(proven, len(alive)),
        score=float(values.mean()) if len(values) else 0.5,
        lift=float(lifts.mean()) if len(lifts) else 0.0,
        curve={str(level): float((values >= level).sum()) / max(1, len(alive)) for level in _LEVELS},
    )


def measure_controls(lab: Lab, chunks: Chunks, config: ControlsConfig, folder: Path) -> dict[str, Coverage]:
    """Coverage of the lab's dictionary (`trained`), of random directions and of neurons. The feature stores of these stay in the folder.

    `chunks` are the activations that the dictionary reads.
    """
    x = _sample(lab, config.sample)
    k = max(1, round(float(lab.dictionary.encode(x).l0().mean())))
    made = {"random": Random.fit(x, k, d_sae=lab.dictionary.d_sae, seed=config.seed), "neurons": Neurons.fit(x, min(k, x.shape[1]))}
    found = {"trained": coverage(lab.features)}
    for name, store in _control_stores(lab, chunks, made, folder).items():
        alive = np.flatnonzero(store.column("density") > 0)
        some = alive[np.unique(np.linspace(0, len(alive) - 1, min(config.features, len(alive))).round().astype(int))].tolist()
        copy_vectors(lab.features, store)  # so that all are held against negatives of the same kinds
        label_features(store, Rules(), some)
        score_features(store, RuleDetection(), "rules", some)
        found[name] = coverage(store)
        store.close()
    return found


def _sample(lab: Lab, rows: int) -> Float[Tensor, "row d_in"]:
    parts: list[Tensor] = []
    for chunk in lab.store.chunks(held_out=False):
        parts.append(chunk.x[:, : lab.dictionary.d_in].float())
        if sum(map(len, parts)) >= rows:
            break
    return torch.cat(parts)[:rows]


def _control_stores(lab: Lab, chunks: Chunks, made: Mapping[str, Baseline], folder: Path) -> dict[str, FeatureStore]:
    """The features of each control, collected in one pass as the dictionary's own were."""
    done = lab.folder.need("collect").config
    config = replace(from_dict(CollectConfig, {name: item for name, item in done.items() if name != "hook"}), postings=0.0)
    readers = [Reader(dictionary, chunks, folder / name) for name, dictionary in made.items()]
    stores: dict[str, FeatureStore] = {}
    for (name, dictionary), collected in zip(made.items(), collect_together(readers, lab.corpus, config), strict=True):
        near = Geometry({"decoder": neighbours(dictionary.cpu().directions)})
        file = folder / name / "features.db"
        write_features(file, lab.subject.name, f"{lab.source}-{name}", collected, lab.subject.vocabulary, near)
        forget(folder / name)
        stores[name] = FeatureStore(file)
    return stores
