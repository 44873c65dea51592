"""Selective unlearning: can features of one kind of text be pushed so that the subject predicts it worse, and other text as well as before?

Features are ranked on training documents by how often they fire on text to be forgotten, among those that fire `over` times as often
there as on text to be retained. Where the first n of them fire, their activation z becomes -m·z, the rest of the activation is kept, and
the next-token loss is measured on held-out documents of both kinds:

    rise = mean loss with the change - mean loss without          selective = rise on forgotten text - rise on retained text

Farrell et al. 2024, https://arxiv.org/abs/2410.19278, and SAEBench clamp to a fixed negative number and ask questions of WMDP; nothing
is claimed about that here. A clamp on every token would write where the features are silent, too, so that negative multiples are taken.

Null: random features that fire as often on text to be forgotten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saelab.analyses.base import ANALYSES, Analysis
from saelab.analyses.losses import Batch, cross_entropies
from saelab.analyses.ranking import draws_of, estimated
from saelab.analyses.rows import codes_of, sample_rows
from saelab.corpus import Corpus
from saelab.errors import Invalid, unknown
from saelab.interventions import feature_edits
from saelab.lab import Lab
from saelab.progress import track
from saelab.records import Estimate, Intervention
from saelab.reports import Cell, Chart, Measure, Report, Series, Table
from saelab.values import value

_LEAST = 10
"""Tokens of text to be forgotten that a feature must fire on."""
_NEAR = 20
"""Features of the nearest frequency that the null is drawn from."""
_NULL = "random features that fire as often on forgotten text"
_NOTE = (
    "Experimental: a rise of the loss is no forgetting. What a text says may still come out in other words or after a little training, "
    "and unlearning by features was found to harm other knowledge more than training does (arXiv 2410.19278). Nothing follows for WMDP."
)
Setting = tuple[int, float]
"""Number of features, and the multiple m."""


@ANALYSES.register("unlearning")
@value
class Unlearning(Analysis):
    """Experimental: how much worse one kind of text is predicted, and how much worse the others, when its features are turned round."""

    forget: tuple[str, ...] = ()
    """Domains to be forgotten; empty for the commonest."""
    retain: tuple[str, ...] = ()
    """Domains to be retained; empty for all others."""
    n: tuple[int, ...] = (5, 20, 80)
    """How many features are changed."""
    times: tuple[float, ...] = (0.0, 2.0, 8.0)
    """m: where a feature fires, its activation becomes so many times itself, with the other sign; 0 takes it away."""
    over: float = 5.0
    """How many times as often as on retained text a feature must fire on forgotten text."""
    rows: int = 50_000
    """Tokens of training documents that frequencies are counted on."""
    windows: int = 32
    """Held-out windows of either kind of text."""
    batch_windows: int = 8
    """Windows in a forward pass."""
    draws: int = 2
    """Draws of random features behind the null."""

    def answer(self, lab: Lab) -> Report:
        """The report. Raises `NotFound` for a domain that there is not, `Invalid` where there is too little text or no such feature."""
        if not self.n or not self.times or min(*self.n, self.windows, self.batch_windows, self.draws) < 1 or min(self.times) < 0:
            raise Invalid("n, windows, batch_windows and draws must be 1 or more, times 0 or more.")
        domain = np.array([lab.corpus.document(number).domain for number in range(lab.corpus.num_documents)])
        forget, retain = self._sides(domain, lab.corpus)
        ranked, frequency = self._ranked(lab, np.isin(domain, forget), np.isin(domain, retain))
        numbers = sorted({min(n, len(ranked)) for n in self.n})
        windows = [self._windows(lab.corpus, np.isin(domain, names)) for names in (forget, retain)]
        losses = _Losses(lab, np.concatenate(windows), len(windows[0]), self.batch_windows, self.seed)
        null = [_alike(ranked[: numbers[-1]], frequency, self.seed + draw) for draw in range(self.draws)]
        cells = [(n, times) for n in numbers for times in self.times]
        rises = {
            (n, times): (losses.rise([ranked[:n]], times), losses.rise([one[:n] for one in null], times))
            for n, times in track(cells, stage="analyse", total=len(cells), unit="settings")
        }
        short = f" Only {len(ranked)} features fire {self.over:g} times as often on forgotten text." if len(ranked) < max(self.n) else ""
        return Report(
            question=f"Can features of {', '.join(forget)} make it worse predicted, and {', '.join(retain)} not?",
            experimental=True,
            measures=tuple(
                Measure(
                    name=f"selective_rise_n{n}_x{times:g}".replace(".", "_"), estimate=own.selective, null=other.selective, null_is=_NULL
                )
                for (n, times), (own, other) in rises.items()
            ),
            tables=(_table(rises), _features(lab, ranked[: numbers[-1]], frequency)),
            charts=(_chart(rises),),
            notes=(_NOTE + short,),
        )

    def _sides(self, domain: np.ndarray, corpus: Corpus) -> tuple[list[str], list[str]]:
        names, counts = np.unique(domain[corpus.window_document], return_counts=True)
        for name in (*self.forget, *self.retain):
            if name not in names:
                raise unknown("domain", name, {str(one) for one in names})
        forget = list(self.forget) or [str(names[counts.argmax()])]
        retain = list(self.retain) or [str(name) for name in names if name not in forget]
        if not retain or set(forget) & set(retain):
            raise Invalid("Text to be forgotten and text to be retained must be of different domains. Name others.")
        return forget, retain

    def _ranked(
        self, lab: Lab, forget: Bool[np.ndarray, " document"], retain: Bool[np.ndarray, " document"]
    ) -> tuple[Int[np.ndarray, " some"], Float[np.ndarray, "2 feature"]]:
        """Features of the text to be forgotten, the most frequent first, and how often each feature fires on both kinds of text."""
        rows = sample_rows(lab, self.rows, self.seed, held_out=False)
        fired = codes_of(lab.dictionary, rows.x) != 0
        sides = [np.flatnonzero(kind[rows.document]) for kind in (forget, retain)]
        if not all(map(len, sides)):
            raise Invalid("The training documents looked at have no tokens of one of the two kinds. Raise rows, or name other domains.")
        frequency = np.stack([np.asarray(fired[side].mean(0)).ravel() for side in sides])
        enough = (frequency[0] * len(sides[0]) >= _LEAST) & (frequency[0] >= self.over * frequency[1])
        if not enough.any():
            raise Invalid(f"No feature fires {self.over:g} times as often on text to be forgotten as on the other. Lower over.")
        return np.argsort(-np.where(enough, frequency[0], -1.0), kind="stable")[: int(enough.sum())], frequency

    def _windows(self, corpus: Corpus, documents: Bool[np.ndarray, " document"]) -> Int[np.ndarray, " window"]:
        fine = corpus.window_held_out & documents[corpus.window_document] & (corpus.window_length > corpus.policy.skip_first + 1)
        found = np.random.default_rng(self.seed).permutation(np.flatnonzero(fine))[: self.windows]
        if len(np.unique(corpus.window_document[found])) < 2:
            raise Invalid("Fewer than two held-out documents of one of the two kinds, so losses cannot be compared. Read more text.")
        return np.sort(found)


@dataclass(frozen=True)
class Rise:
    """What a change of features costs."""

    forget: Estimate
    """Rise of the loss on text to be forgotten, nats."""
    retain: Estimate
    """The same on text to be retained: the side effect."""
    selective: Estimate
    """The difference."""


Rises = Mapping[Setting, tuple[Rise, Rise]]
"""By setting, the rises of the chosen features and of the null."""


def _alike(ranked: Int[np.ndarray, " some"], frequency: Float[np.ndarray, "2 feature"], seed: int) -> Int[np.ndarray, " some"]:
    """For each feature a random other one of those that fire most nearly as often on text to be forgotten, each once."""
    draw, free = np.random.default_rng(seed), frequency[0] > 0
    free[ranked] = False
    found: list[int] = []
    for feature in ranked:
        distance = np.where(free, np.abs(frequency[0] - frequency[0, feature]), np.inf)
        near = np.argsort(distance, kind="stable")[: min(_NEAR, int(free.sum()))]
        if not len(near):
            raise Invalid("Too few other features fire on text to be forgotten for a null. Ask for fewer features with --n.")
        found.append(int(draw.choice(near)))
        free[found[-1]] = False
    return np.array(found)


class _Losses:
    """Losses on held-out windows, those to be forgotten first, with and without changes of features."""

    def __init__(self, lab: Lab, windows: Int[np.ndarray, " window"], forget: int, batch_windows: int, seed: int) -> None:
        self._lab = lab
        parts = np.array_split(windows, -(-len(windows) // batch_windows))
        self._batches = [Batch.of(lab.corpus, part, lab.subject.device) for part in parts]
        tokens = np.concatenate([batch.scored.sum(-1).cpu().numpy() for batch in self._batches]).astype(float)
        of_window, weights = draws_of(lab.corpus.window_document[windows], seed)
        self._forget, self._tokens, self._weights, self._n = (
            np.arange(len(windows)) < forget,
            tokens,
            weights[:, of_window],
            weights.shape[1],
        )
        self._clean = self._sums([])

    def rise(self, sets: Sequence[Int[np.ndarray, " n"]], times: float) -> Rise:
        """The rise with the activations of some features turned round and multiplied; of several sets the mean."""
        added = np.mean([self._sums([Intervention(feature=int(f), op="scale", strength=-times) for f in one]) for one in sets], axis=0)
        draws = [self._mean(added - self._clean, kind) for kind in (self._forget, ~self._forget)]
        return Rise(*(estimated(one, self._n) for one in (*draws, draws[0] - draws[1])))

    def _mean(self, sums: Float[np.ndarray, " window"], kind: Bool[np.ndarray, " window"]) -> Float[np.ndarray, " draw"]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self._weights @ (sums * kind)) / (self._weights @ (self._tokens * kind))

    @torch.inference_mode()
    def _sums(self, changes: Sequence[Intervention]) -> Float[np.ndarray, " window"]:
        """Summed losses of each window."""
        found: list[float] = []
        for batch in self._batches:
            edits = feature_edits(self._lab.dictionary, changes, {}) if changes else {}
            logits = self._lab.subject.logits(batch.ids, edits, batch.counted)
            found += cross_entropies(logits, batch)
        return np.array(found)


def _table(rises: Rises) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (n, times, own.forget, own.retain, other.forget, other.retain) for (n, times), (own, other) in rises.items()
    ]
    columns = ("features", "m", "forget", "retain", "null forget", "null retain")
    return Table(title="Rise of the next-token loss, nats", columns=columns, rows=tuple(rows))


def _features(lab: Lab, ranked: Int[np.ndarray, " some"], frequency: Float[np.ndarray, "2 feature"]) -> Table:
    labels: dict[int, str | None] = {}
    if lab.folder.manifest("collect") is not None:
        labels = {row.index: row.label for row in lab.features.rows(sorted(ranked.tolist()))}
    rows: list[tuple[Cell, ...]] = [(f, *(float(side[f]) for side in frequency), labels.get(f)) for f in ranked.tolist()]
    return Table(
        title="The features, with the share of tokens on which they fire",
        columns=("feature", "forget", "retain", "label"),
        rows=tuple(rows),
    )


def _chart(rises: Rises) -> Chart:
    """The damage to text to be forgotten over the damage to the rest; a line for each number of features."""
    lines: list[Series] = []
    for n in sorted({n for n, _ in rises}):
        for name, number in ((f"{n} features", 0), (f"control random {n}", 1)):
            points = [both[number] for (count, _), both in rises.items() if count == n]
            forget = [one.forget for one in points]
            lines.append(
                Series(
                    name=name,
                    x=tuple(one.retain.value for one in points),
                    y=tuple(one.value for one in forget),
                    low=tuple(one.low for one in forget),
                    high=tuple(one.high for one in forget),
                )
            )
    return Chart(
        title="Loss on forgotten over loss on retained text",
        kind="line",
        x="rise on retained, nats",
        y="rise on forgotten, nats",
        series=tuple(lines),
    )
