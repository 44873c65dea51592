"""Recovery of planted features by every dictionary: `make recovery` writes the page in docs/benchmarks.

Four worlds, each drawn anew for each seed; every trainable architecture is trained with its defaults at the planted number of features and
the planted L0, every baseline is fitted, and all are judged on rows that none has seen. Nothing here names an architecture: what is
registered is measured.
"""

import platform
import sys
import time
from collections import defaultdict
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from saelab.analyses.recovery import Recovery, over_seeds, recovery
from saelab.baselines.base import Baseline
from saelab.baselines.supervised import Supervised
from saelab.dictionary import DICTIONARIES, Dictionary, Trainable
from saelab.planted import Planted, Vectors, World
from saelab.records import Estimate
from saelab.run import versions
from saelab.testing import training_rows
from saelab.training import TrainConfig, Trainer

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "2026-11-22-recovery.md"
SEEDS = range(3)
L0 = 4
D_IN = 32
COMMON = {"d_in": D_IN, "l0": L0, "noise": 0.05, "mean": 1.0}
WORLDS = {
    "plain": {"num_features": D_IN},
    "superposed": {"num_features": 4 * D_IN},
    "correlated": {"num_features": 4 * D_IN, "group_size": 4, "correlation": 0.5},
    "hierarchical": {"num_features": 4 * D_IN, "group_size": 4, "hierarchy": 1.0},
}
TRAIN = {"steps": 1500, "batch_size": 256, "sample": 8192, "lr": 1e-2}  # the default rates are for wider dictionaries and longer runs
FIT_ROWS = 4096
COLUMNS = ("mcc", "found", "precision", "recall", "f1", "fvu", "l0", "dead")
ABSORPTION = ("absorbed", "missed")


def made(kind: type[Dictionary], world: World, batches: list[Tensor], sample: Vectors, seed: int) -> Dictionary:
    """The dictionary of a kind, trained on the world's batches or fitted to the sample."""
    num_features = world.config.num_features
    if issubclass(kind, Supervised):
        return kind.fit(sample.x, sample.firing)
    if issubclass(kind, Baseline):
        return kind.fit(sample.x, L0, d_sae=num_features, seed=seed)
    assert issubclass(kind, Trainable)
    dictionary = kind.sized(D_IN, num_features, L0)
    trainer = Trainer(dictionary, TrainConfig(**TRAIN, seed=seed))
    trainer.fit(lambda start: (training_rows(dictionary, x) for x in batches[start:]))
    return dictionary


def measured() -> tuple[dict[str, dict[str, list[Recovery]]], dict[str, float]]:
    """Recoveries by world and dictionary, one a seed; and the seconds that each dictionary took in all."""
    found: dict[str, dict[str, list[Recovery]]] = {name: defaultdict(list) for name in WORLDS}
    seconds: dict[str, float] = defaultdict(float)
    for name, seed in product(WORLDS, SEEDS):
        world = World(Planted(**COMMON, **WORLDS[name], seed=seed))
        batches = [world.batch(TRAIN["batch_size"], number).x for number in range(TRAIN["steps"])]
        sample = world.batch(FIT_ROWS, seed=1)
        for kind in DICTIONARIES:
            began = time.perf_counter()
            dictionary = made(DICTIONARIES[kind], world, batches, sample, seed)
            seconds[kind] += time.perf_counter() - began
            found[name][kind].append(recovery(dictionary, world))
        print(f"{name}, seed {seed}: {sum(seconds.values()):.0f} s of training and fitting so far", file=sys.stderr, flush=True)
    return found, seconds


def cell(estimate: Estimate) -> str:
    """The mean and half the width of its interval."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} ± {(estimate.high - estimate.low) / 2:.2f}"


def table(by_kind: dict[str, list[Recovery]]) -> list[str]:
    """The Markdown table of one world, the best MCC first."""
    means = {kind: over_seeds(found) for kind, found in by_kind.items()}
    columns = [name for name in (*COLUMNS, *ABSORPTION) if all(name in row for row in means.values())]
    heads = {"mcc": "MCC", "fvu": "FVU", "l0": "L0", "f1": "F1"}
    lines = [f"| | {' | '.join(heads.get(name, name) for name in columns)} |", f"|---|{'---:|' * len(columns)}"]
    for kind, row in sorted(means.items(), key=lambda item: -item[1]["mcc"].value):
        lines.append(f"| `{kind}` | {' | '.join(cell(row[name]) for name in columns)} |")
    return lines


def page(found: dict[str, dict[str, list[Recovery]]], seconds: dict[str, float]) -> str:
    """The whole page."""
    used = ", ".join(f"{name} {version}" for name, version in versions().items() if name in {"python", "torch", "numpy"})
    intro = f"""# Recovery of planted features

Written by `make recovery` on {platform.machine()}, {torch.get_num_threads()} thread(s), {used}; {sum(seconds.values()) / 60:.0f} minutes of
training and fitting.

Rows of {D_IN} values with {L0} of the planted features on average, values between 0.5 and 1.5, noise of 0.05 on each value and a mean of
norm 1 (`saelab/planted.py` has the formulas); each world drawn anew for each of {len(SEEDS)} seeds. Architectures are trained for
{TRAIN["steps"]:,} steps of {TRAIN["batch_size"]} rows at learning rate {TRAIN["lr"]}, all else at their defaults, with as many
features as were planted and an L0 of {L0} as their aim. Baselines are fitted to {FIT_ROWS:,} rows, `diff_mean` and `probe` with
the truth as labels: what supervision reaches, not a competitor. Judged on 20,000 other rows. ± is half the 95 % interval over seeds
(Student's t).

- MCC: mean |cosine| under the best one-to-one matching, a planted feature without a partner counting 0. found: share above 0.9.
- precision, recall, F1: of the partner's firing against the planted feature's, mean over the planted features.
- dead: share of the dictionary's features that never fire. `random` is the null."""
    lines = [intro]
    for name, by_kind in found.items():
        settings = ", ".join(f"{field} {setting}" for field, setting in WORLDS[name].items())
        lines += ["", f"## {name.capitalize()}: {settings}", ""]
        if name == "hierarchical":
            lines += [
                "absorbed: share of a parent's firings together with a child on which its partner is silent; missed: of its firings alone.",
                "",
            ]
        lines += table(by_kind)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(*measured()), encoding="utf-8")
    print(f"Wrote {PAGE}", file=sys.stderr)
