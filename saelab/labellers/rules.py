"""Labels as rules, found without any model: candidate predicates from what the feature fires on, fitted against windows where it is silent.

The best candidates on the explain windows are joined in twos and threes; the select windows choose among them by average precision minus a
price for each clause (a short rule that says nearly as much is the better label). Windows weigh as much as the feature is active in them: a
label should say what it fires on strongly. Where even the best one misses the threshold the label
says so. The second clause, what the feature promotes, is given only where the logit lens is more peaked than that of random directions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Int

from saelab.features.views import ExplainView, Windows
from saelab.labellers.base import LABELLERS, Labeller, need_windows, output_clause
from saelab.labellers.candidates import candidates
from saelab.labellers.predicates import AllOf, AnyOf, Rule, shown, write
from saelab.records import Label
from saelab.scorers.metrics import average_precisions
from saelab.values import to_json, value

_TOP_TOKENS = 5
_Masks = tuple[Bool[np.ndarray, "positive pos"], Bool[np.ndarray, "negative pos"]]


@dataclass(frozen=True)
class _Tried:
    """A predicate, where it fires on the explain windows (positives, then negatives), and what that is worth."""

    rule: Rule
    masks: _Masks
    worth: float


@LABELLERS.register("rules")
@value
class Rules(Labeller):
    """Finds the simplest rule over tokens that tells where a feature fires."""

    threshold: float = 0.7
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
        need_windows(view, self.min_windows)
        ranked = self._fitted(view)
        rule, precision = self._chosen(view, ranked)
        output = output_clause(view, self.promoted)
        if precision < self.threshold:
            tops = ", ".join(shown(token) for token in _top_tokens(view.positives))
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
        single = candidates(view.positives, view.negatives)
        tried = self._best(view, [], [(rule, (rule.mask(view.positives.texts), rule.mask(view.negatives.texts))) for rule in single])
        for _ in range(self.max_clauses - 1):
            known = {item.rule for item in tried}
            joined: dict[Rule, _Masks] = {}
            for one, other in combinations(tried[: self.kept // 2 + 1], 2):
                if one.rule.clauses() + other.rule.clauses() <= self.max_clauses:
                    joined |= {rule: masks for rule, masks in _joins(one, other) if rule not in known}
            tried = self._best(view, tried, list(joined.items()))
        return tried

    def _best(self, view: ExplainView, tried: list[_Tried], more: list[tuple[Rule, _Masks]]) -> list[_Tried]:
        if more:
            up = np.array([(masks[0] & view.positives.counted).sum(1) for _, masks in more])
            down = np.array([(masks[1] & view.negatives.counted).sum(1) for _, masks in more])
            worth = average_precisions(up, down, view.positives.strength).tolist()
            tried = tried + [
                _Tried(rule, masks, found - self.price * rule.clauses()) for (rule, masks), found in zip(more, worth, strict=True)
            ]
        return sorted(tried, key=lambda item: (-item.worth, item.rule.clauses(), item.rule.words()))[: self.kept]

    def _chosen(self, view: ExplainView, ranked: list[_Tried]) -> tuple[Rule, float]:
        """The predicate that does best on the select windows (on the explain windows where too few select windows fire)."""
        if len(view.select_positives) < self.min_windows or not len(view.select_negatives):
            return ranked[0].rule, ranked[0].worth + self.price * ranked[0].rule.clauses()
        up, down = ([_strength(item.rule, part) for item in ranked] for part in (view.select_positives, view.select_negatives))
        found = average_precisions(np.array(up), np.array(down), view.select_positives.strength)
        best = int(np.argmax(found - self.price * np.array([item.rule.clauses() for item in ranked])))
        return ranked[best].rule, float(found[best])


def _joins(one: _Tried, other: _Tried) -> Iterator[tuple[Rule, _Masks]]:
    """The two predicates as one: both, and either. Predicates of the same kind are joined into one list."""
    for kind, join in ((AllOf, np.logical_and), (AnyOf, np.logical_or)):
        parts = tuple(part for item in (one, other) for part in (item.rule.parts if isinstance(item.rule, kind) else (item.rule,)))
        masks = (join(one.masks[0], other.masks[0]), join(one.masks[1], other.masks[1]))
        yield kind(parts=parts), masks  # pyright: ignore[reportArgumentType]


def _strength(rule: Rule, windows: Windows) -> Int[np.ndarray, " window"]:
    """At how many of its counted tokens a predicate fires in each window."""
    return (rule.mask(windows.texts) & windows.counted).sum(1)


def _top_tokens(windows: Windows) -> list[str]:
    ids = windows.texts.ids[np.arange(len(windows)), windows.peak]
    found, counts = np.unique(ids, return_counts=True)
    return [windows.texts.vocabulary.strings[token] for token in found[np.argsort(-counts, kind="stable")[:_TOP_TOKENS]].tolist()]
