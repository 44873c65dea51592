"""Labels as rules, found without any model: candidate predicates from what the feature fires on, fitted against windows where it is silent.

The best candidates on the explain windows are joined in twos and threes; the select windows choose among them by average precision minus a
price for each clause (a short rule that says nearly as much is the better label). Where even the best one misses the threshold the label
says so. The second clause, what the feature promotes, is given only where the logit lens is more peaked than that of random directions.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Int

from saelab.errors import Unscored
from saelab.features.views import ExplainView, Windows
from saelab.features.vocabulary import fold
from saelab.labellers.base import LABELLERS, Labeller
from saelab.labellers.candidates import candidates
from saelab.labellers.predicates import AllOf, AnyOf, Rule, write
from saelab.records import Label
from saelab.scorers.metrics import average_precision
from saelab.values import to_json, value

_TOP_TOKENS = 5


@dataclass(frozen=True)
class _Tried:
    """A predicate, where it fires on the explain windows (positives, then negatives), and what that is worth."""

    rule: Rule
    masks: tuple[Bool[np.ndarray, "positive pos"], Bool[np.ndarray, "negative pos"]]
    worth: float


@LABELLERS.register("rules")
@value
class Rules(Labeller):
    """Finds the simplest rule over tokens that tells where a feature fires."""

    threshold: float = 0.75
    """Average precision on the select windows (half of them positive) below which no rule is stated."""
    price: float = 0.02
    """Average precision that one more clause must gain."""
    kept: int = 8
    """Candidates that go on to be joined and chosen from."""
    max_clauses: int = 3
    """Simple predicates in a rule, at most."""
    promoted: int = 4
    """Tokens named in the clause about what the feature promotes."""
    min_windows: int = 4
    """Windows in which a feature must fire, in explain documents, to be labelled."""

    def label(self, view: ExplainView) -> Label:
        """The label of a feature. Raises `Unscored` where it fires in too few windows."""
        if len(view.positives) < self.min_windows or not len(view.negatives):
            raise Unscored(f"fires in {len(view.positives)} windows of the explain documents, at least {self.min_windows} are needed")
        ranked = self._fitted(view)
        rule, precision = self._chosen(view, ranked)
        output = self._output(view)
        if precision < self.threshold:
            tops = ", ".join(f"“{token}”" for token in _top_tokens(view.positives))
            return self._made(f"no simple rule found; strongest on {tops}", "", output, None)
        return self._made(rule.words(), rule.words(), output, rule)

    def _made(self, text: str, clause: str, output: str, rule: Rule | None) -> Label:
        return Label(
            text=f"{text}; {output}" if output else text,
            input_clause=clause,
            output_clause=output,
            labeller="rules",
            predicate=write(rule) if rule else "",
            found=rule is not None,
            made_by=to_json(self),
        )

    def _fitted(self, view: ExplainView) -> list[_Tried]:
        """The best predicates on the explain windows: single ones, then greedily joined with the best of the others."""
        tried = self._best([self._try(view, rule) for rule in candidates(view.positives, view.negatives)])
        for _ in range(self.max_clauses - 1):
            joined = [
                self._join(view, kind, one, other)
                for one, other in combinations(tried[: self.kept // 2 + 1], 2)
                if one.rule.clauses() + other.rule.clauses() <= self.max_clauses
                for kind in (AllOf, AnyOf)
            ]
            tried = self._best([*tried, *joined])
        return tried

    def _best(self, tried: list[_Tried]) -> list[_Tried]:
        unique = {item.rule: item for item in tried}
        return sorted(unique.values(), key=lambda item: (-item.worth, item.rule.clauses(), item.rule.words()))[: self.kept]

    def _try(self, view: ExplainView, rule: Rule) -> _Tried:
        masks = (rule.mask(view.positives.texts), rule.mask(view.negatives.texts))
        return _Tried(rule, masks, self._worth(view, rule, masks))

    def _join(self, view: ExplainView, kind: type[AllOf] | type[AnyOf], one: _Tried, other: _Tried) -> _Tried:
        parts = tuple(part for item in (one, other) for part in (item.rule.parts if isinstance(item.rule, kind) else (item.rule,)))
        rule = kind(parts=parts)  # pyright: ignore[reportArgumentType]
        join = np.logical_and if kind is AllOf else np.logical_or
        masks = (join(one.masks[0], other.masks[0]), join(one.masks[1], other.masks[1]))
        return _Tried(rule, masks, self._worth(view, rule, masks))

    def _worth(self, view: ExplainView, rule: Rule, masks: tuple[Bool[np.ndarray, "p pos"], Bool[np.ndarray, "n pos"]]) -> float:
        strength = _strengths(masks, view.positives, view.negatives)
        return average_precision(*strength) - self.price * rule.clauses()

    def _chosen(self, view: ExplainView, ranked: list[_Tried]) -> tuple[Rule, float]:
        """The predicate that does best on the select windows (on the explain windows where too few select windows fire)."""
        if len(view.select_positives) < self.min_windows or not len(view.select_negatives):
            return ranked[0].rule, ranked[0].worth + self.price * ranked[0].rule.clauses()
        positives, negatives = view.select_positives, view.select_negatives
        found: list[tuple[float, Rule]] = []
        for item in ranked:
            masks = (item.rule.mask(positives.texts), item.rule.mask(negatives.texts))
            found.append((average_precision(*_strengths(masks, positives, negatives)), item.rule))
        precision, rule = max(found, key=lambda pair: pair[0] - self.price * pair[1].clauses())
        return rule, precision

    def _output(self, view: ExplainView) -> str:
        if not view.promoted or view.kurtosis <= view.kurtosis_null:
            return ""
        different = {fold(token): token for token in reversed(view.promoted)}
        tokens = [token for token in view.promoted if different[fold(token)] == token][: self.promoted]
        return "promotes " + ", ".join(f"“{token}”" for token in tokens)


def _strengths(
    masks: tuple[Bool[np.ndarray, "p pos"], Bool[np.ndarray, "n pos"]], positives: Windows, negatives: Windows
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " n"]]:
    """At how many of its counted tokens a predicate fires in each window."""
    return (masks[0] & positives.counted).sum(1), (masks[1] & negatives.counted).sum(1)


def _top_tokens(windows: Windows) -> list[str]:
    ids = windows.texts.ids[np.arange(len(windows)), windows.peak]
    found, counts = np.unique(ids, return_counts=True)
    return [windows.texts.vocabulary.strings[token] for token in found[np.argsort(-counts, kind="stable")[:_TOP_TOKENS]].tolist()]
