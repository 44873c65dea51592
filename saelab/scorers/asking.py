"""What scorers have in common that ask a language model behind an endpoint: prompts in, numbers out, failures counted as wrong."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from saelab.llm import Endpoint
from saelab.scorers.base import Scorer
from saelab.values import value

_ARRAY = re.compile(r"\[[^\[\]]*\]")


@value
class Asking(Scorer, Endpoint):
    """Abstract: a scorer over an endpoint. A null costs as many questions as the label itself, so that there is one unless more are
    asked for.
    """

    nulls: int = 1
    """Labels of other features that make the null; 0 halves the price and leaves no lift."""
    min_nulls: int = 1
    """Labels of other features without which there is no null and no lift."""
    batch: int = 25
    """Texts that one question shows."""

    def ratings(self, instructions: str, label: str, texts: Sequence[str]) -> list[float | None]:
        """What the model says of each text, 0 to 10; none for each text of a batch whose answer cannot be read."""
        found: list[float | None] = []
        for begin in range(0, len(texts), self.batch):
            some = texts[begin : begin + self.batch]
            numbered = "\n".join(f"{number}. {text}" for number, text in enumerate(some, 1))
            asked = f"Label: {label}\n\nTexts:\n{numbered}\n\nAnswer with a JSON array of {len(some)} numbers and nothing else."
            answer = self.chat.ask([{"role": "system", "content": instructions}, {"role": "user", "content": asked}])
            found += numbers(answer, len(some)) or [None] * len(some)
        return found

    def facts(self, instructions: str, answers: Sequence[object]) -> dict[str, Any]:
        """What a score says of the model that made it: its id, the hash of its prompt, the share of answers that could not be read."""
        failures = sum(answer is None for answer in answers) / max(1, len(answers))
        return {"model": self.chat.model, "prompt": prompt_hash(instructions), "failures": failures}


def prompt_hash(instructions: str) -> str:
    """A short name for a prompt: the same only for the same text."""
    return hashlib.sha256(instructions.encode()).hexdigest()[:16]


def numbers(answer: str, count: int) -> list[float | None] | None:
    """The JSON array of so many numbers from 0 to 10 that an answer holds; none where it holds no such array."""
    for text in reversed(_ARRAY.findall(answer)):
        try:
            found = json.loads(text)
        except json.JSONDecodeError:
            continue
        if len(found) == count and all(isinstance(item, int | float) and 0 <= item <= 10 for item in found):
            return [float(item) for item in found]
    return None
