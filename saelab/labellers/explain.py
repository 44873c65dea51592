"""Labels that a language model writes from examples, over any OpenAI-compatible endpoint.

It is shown explain windows alone: some in which the feature fires, the tokens at which it is strongest marked, some in which it is
silent although they
hold the same tokens, and what the logit lens says that it promotes (examples and promoted tokens together explain more than either,
Gur-Arieh et al. 2025, arXiv 2501.08319).
"""

import hashlib
import re

import numpy as np

from saelab.errors import Unscored
from saelab.features.excerpts import lines, strong, taken
from saelab.features.views import ExplainView, Windows
from saelab.labellers.base import LABELLERS, Labeller, need_windows, output_clause, promoted_tokens
from saelab.labellers.predicates import shown
from saelab.llm import Endpoint, Message
from saelab.records import Label
from saelab.values import to_json, value

PROMPT = """You explain features of a language model. You are given texts in which one feature is active, with the tokens at which it is \
strongest between << and >>, and texts in which it is silent. Find what the marked tokens have in common, read in their context, and what \
the silent texts lack: words, forms, grammar, topic, or what comes next. Say it in one short phrase of at most fifteen words, as exact \
as the \
texts allow. Do not speak of the feature, the model, the marks or the texts. Each ⏎ is a line break. End with one line: LABEL: your \
phrase"""

_LABEL = re.compile(r"label:\s*(.+)", re.IGNORECASE)
_LONGEST = 200


@LABELLERS.register("explain")
@value
class Explain(Labeller, Endpoint):
    """Asks a language model what the examples have in common."""

    examples: int = 20
    """Texts in which the feature fires that are shown: half the strongest ones, half a spread over all strengths."""
    silent: int = 5
    """Texts in which it is silent that are shown."""
    radius: int = 16
    """Tokens shown on either side of the strongest one."""
    promoted: int = 8
    """Promoted tokens that are shown, where the logit lens is peaked."""
    min_windows: int = 4
    """Windows in which a feature must fire, in explain documents, to be labelled."""
    instructions: str = PROMPT
    """What the model is told before the examples."""

    def label(self, view: ExplainView) -> Label:
        """The label that the model writes. Raises `Unscored` where there is too little to show, or where it writes none."""
        need_windows(view, self.min_windows)
        phrase = _phrase(self.chat.ask(self.question(view)))
        if not phrase:
            raise Unscored(f"{self.chat.model} wrote no label")
        output = output_clause(view, 4)
        return Label(
            text=f"{phrase}; {output}" if output else phrase,
            input_clause=phrase,
            output_clause=output,
            labeller="explain",
            model=self.chat.model,
            prompt=hashlib.sha256(self.instructions.encode()).hexdigest()[:16],
            made_by=to_json(self),
        )

    def question(self, view: ExplainView) -> list[Message]:
        """What the model is asked about a feature."""
        positives = _shown(view.positives, self.examples)
        parts = ["Active:", *(f"{n}. {text}" for n, text in enumerate(lines(positives, strong(positives), self.radius), 1))]
        if self.silent:
            negatives = taken(view.negatives, np.arange(min(self.silent, len(view.negatives))))
            parts += ["", "Silent:", *(f"{n}. {text}" for n, text in enumerate(lines(negatives, None, self.radius), 1))]
        tokens = promoted_tokens(view, self.promoted)
        if tokens:
            parts += ["", f"It makes these tokens likelier: {', '.join(map(shown, tokens))}"]
        return [{"role": "system", "content": self.instructions}, {"role": "user", "content": "\n".join(parts)}]


def _shown(windows: Windows, count: int) -> Windows:
    """The strongest windows, and as many spread over the others by strength."""
    order = np.argsort(-windows.strength, kind="stable")
    top, rest = order[: -(-count // 2)], order[-(-count // 2) :]
    spread = np.unique(np.linspace(0, len(rest) - 1, min(count // 2, len(rest))).round().astype(int))
    return taken(windows, np.concatenate([top, rest[spread]]))


def _phrase(answer: str) -> str:
    """The label in an answer: what stands behind its last LABEL:, or else its last line with a word in it."""
    named = _LABEL.findall(answer)
    written = [line.strip() for line in answer.splitlines() if re.search(r"\w", line)]
    phrase = (named or written or [""])[-1]
    return phrase.strip().strip("\"'*.").strip()[:_LONGEST]
