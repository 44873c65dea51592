"""k-sparse probing: how well the k best features tell the answers of labelled tasks, with nested validation.

For each task, k features are chosen on training rows and a logistic regression is fitted on them; the penalty comes from inner folds, the
AUROC from outer folds that had no part in either. Beside it, with the same procedure: k random directions of as many, k principal
components, k neurons; the whole activation; and the features with answers shuffled, which must give a half. The interval of the mean is a
bootstrap over tasks.

Gurnee et al. 2023, "Finding neurons in a haystack", https://arxiv.org/abs/2305.01610; Kantamneni et al. 2025, https://arxiv.org/abs/2502.16681.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from saelab.activations.shuffle import first_rows
from saelab.analyses.base import ANALYSES, Analysis
from saelab.analyses.logistic import Columns, validated
from saelab.analyses.rows import codes_of
from saelab.analyses.tasks import Task, installed, text_tasks, token_tasks
from saelab.baselines.pca import PCA
from saelab.baselines.random import Random
from saelab.dictionary import Dictionary
from saelab.errors import Invalid
from saelab.estimates import ratio
from saelab.lab import Lab
from saelab.records import Estimate
from saelab.reports import Cell, Chart, Measure, Report, Series, Table
from saelab.values import value

_FIT_ROWS = 20_000
_KINDS = ("features", "control random", "pca", "neurons")


@ANALYSES.register("probing")
@value
class Probing(Analysis):
    """Sparse probes on labelled tasks beside probes on other directions and on the whole activation."""

    tasks_from: Literal["auto", "sae-probes", "text"] = "auto"
    """sae-probes: its 113 tasks. text: named concepts in the run's own text. auto: the first where the package is installed."""
    tasks: int | None = 20
    """How many tasks; none for all."""
    rows: int = 400
    """Rows of a task, half of them with yes."""
    max_tokens: int = 128
    """Tokens that are read of a text, its last ones."""
    k: tuple[int, ...] = (1, 2, 5, 16)
    """How many features a probe may use."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `NotFound` for tasks that are not installed, `Invalid` where no task has enough rows."""
        if not self.k or min(self.k) < 1 or self.rows < 40:
            raise Invalid("Each k must be 1 or more, and rows 40 or more.")
        controls = _controls(lab, self.seed)
        found: dict[str, dict[str, float]] = {}
        left_out: list[str] = []
        for task in self._tasks(lab):
            scores = self._scores(lab.dictionary, controls, task)
            if scores is None:
                left_out.append(task.name)
            else:
                found[task.name] = scores
        if not found:
            raise Invalid("No task has enough rows of both kinds. Read more text, or install the tasks of sae-probes.")
        notes = (self._told(),) + ((f"Left out for too few rows: {', '.join(left_out)}.",) if left_out else ())
        return Report(
            question=_QUESTION, measures=self._measures(found), tables=(self._table(found),), charts=(self._chart(found),), notes=notes
        )

    def _tasks(self, lab: Lab) -> Iterator[Task]:
        if self._bundled():
            return text_tasks(lab, self.tasks, self.rows, self.max_tokens, self.seed)
        return token_tasks(lab, self.tasks, self.rows, self.seed)

    def _bundled(self) -> bool:
        return self.tasks_from == "sae-probes" or (self.tasks_from == "auto" and installed())

    def _told(self) -> str:
        if self._bundled():
            return "Tasks of sae-probes 0.4.2: the activation on a text's last token."
        return "Tasks: named concepts of single tokens in held-out documents of the run."

    def _scores(self, dictionary: Dictionary, controls: Mapping[str, Dictionary], task: Task) -> dict[str, float] | None:
        """AUROC of every probe on a task, by `kind k`."""
        x = task.x[:, : dictionary.d_in]
        dense = x.double().numpy()
        columns: dict[str, Columns] = {
            "features": codes_of(dictionary, x),
            "control random": codes_of(controls["random"], x),
            "pca": controls["pca"].encode(x).dense().double().numpy(),
            "neurons": dense,
        }
        probes: dict[str, tuple[Columns, int | None]] = {f"{kind} {k}": (columns[kind], k) for kind in _KINDS for k in self.k}
        probes["residual"] = (dense, None)
        found = {name: validated(part, task.positive, task.group, k, self.seed) for name, (part, k) in probes.items()}
        shuffled = np.random.default_rng(self.seed).permutation(task.positive)
        found["shuffled"] = validated(columns["features"], shuffled, task.group, max(self.k), self.seed)
        return {name: one.auroc for name, one in found.items() if one} if all(found.values()) else None

    def _measures(self, found: Mapping[str, Mapping[str, float]]) -> tuple[Measure, ...]:
        over = {name: self._mean(found, name) for name in next(iter(found.values()))}
        sparse = tuple(
            Measure(name=f"auroc_k{k}", estimate=over[f"features {k}"], null=over[f"control random {k}"], null_is="k of random directions")
            for k in self.k
        )
        others = {f"auroc_{kind}_k{k}": over[f"{kind} {k}"] for kind in ("pca", "neurons") for k in self.k}
        whole = Measure(name="auroc_residual", estimate=over["residual"], null=over["shuffled"], null_is="features, answers shuffled")
        return (*sparse, whole, *(Measure(name=name, estimate=one) for name, one in others.items()))

    def _mean(self, found: Mapping[str, Mapping[str, float]], name: str) -> Estimate:
        values = np.array([task[name] for task in found.values()])
        return ratio(values, np.ones(len(values)), np.arange(len(values)), self.seed)

    def _table(self, found: Mapping[str, Mapping[str, float]]) -> Table:
        most = max(self.k)
        names = [*(f"features {k}" for k in self.k), *(f"{kind} {most}" for kind in _KINDS[1:]), "residual", "shuffled"]
        rows: list[tuple[Cell, ...]] = [(task, *(scores[name] for name in names)) for task, scores in found.items()]
        return Table(title="AUROC of each probe on each task", columns=("task", *names), rows=tuple(rows))

    def _chart(self, found: Mapping[str, Mapping[str, float]]) -> Chart:
        def series(name: str, columns: tuple[str, ...]) -> Series:
            points = [self._mean(found, column) for column in columns]
            ends = [tuple(getattr(point, end) for point in points) for end in ("low", "high")]
            return Series(name=name, x=tuple(map(float, self.k)), y=tuple(point.value for point in points), low=ends[0], high=ends[1])

        drawn = [series(kind, tuple(f"{kind} {k}" for k in self.k)) for kind in _KINDS]
        drawn.append(series("whole activation", ("residual",) * len(self.k)))
        return Chart(title=f"Probes on {len(found)} tasks", kind="line", x="features in the probe", y="mean auroc", series=tuple(drawn))


_QUESTION = "How well do k features tell the answers of labelled tasks?"


def _controls(lab: Lab, seed: int) -> dict[str, Dictionary]:
    """Random directions with as many active features, and all principal components, fitted on training activations."""
    sample: Float[Tensor, "row d_in"] = first_rows(lab.store, _FIT_ROWS, seed)[:, : lab.dictionary.d_in]
    active = codes_of(lab.dictionary, sample[:2000])
    k = max(1, min(round(active.nnz / active.shape[0]), lab.dictionary.d_in))
    return {
        "random": Random.fit(sample, k=k, d_sae=lab.dictionary.d_sae, seed=seed),
        "pca": PCA.fit(sample, k=lab.dictionary.d_in),
    }
