"""What a subject's predictions lose when activations are replaced: next-token losses on held-out windows under edits at a hook."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from saelab.corpus import Corpus
from saelab.errors import Invalid


def some_windows(corpus: Corpus, count: int, seed: int) -> Int[np.ndarray, " window"]:
    """A random choice of held-out windows that have a prediction to score, in corpus order. Raises `Invalid` for fewer than two."""
    candidates = np.flatnonzero(corpus.window_held_out & (corpus.window_length > corpus.policy.skip_first + 1))
    windows = np.sort(np.random.default_rng(seed).permutation(candidates)[:count])
    if len(windows) < 2:
        raise Invalid("Fewer than two held-out windows, so losses cannot be compared. Read a larger corpus (about 10 % is held out).")
    return windows


@dataclass(frozen=True)
class Batch:
    """Some windows as the subject reads them, padded on the right."""

    ids: Int[Tensor, "window pos"]
    """Token ids, 0 behind a window's end."""
    counted: Bool[Tensor, "window pos"]
    """Positions that count, which may be edited."""
    scored: Bool[Tensor, "window pos_less_1"]
    """Predictions that are scored: from a counted position to a token that is there."""

    @classmethod
    def of(cls, corpus: Corpus, windows: Int[np.ndarray, " window"], device: torch.device) -> Self:
        """Windows of a corpus."""
        ids, counted = corpus.windows(windows)
        inside = np.arange(ids.shape[1]) < corpus.window_length[windows][:, None]
        scored = counted[:, :-1] & inside[:, 1:]
        return cls(torch.from_numpy(ids), torch.from_numpy(counted).to(device), torch.from_numpy(scored).to(device))


@torch.inference_mode()
def token_losses(
    logits: Float[Tensor, "window pos vocab"], clean: Float[Tensor, "window pos vocab"], batch: Batch
) -> list[tuple[Float[Tensor, " scored"], Float[Tensor, " scored"]]]:
    """Cross-entropy, and KL from the clean prediction, at the scored positions of each window, in nats, float64."""
    found: list[tuple[Tensor, Tensor]] = []
    for row, scored in enumerate(batch.scored):
        edited, plain = logits[row, :-1][scored].float(), clean[row, :-1][scored].float()
        targets = batch.ids[row, 1:].to(edited.device)[scored]
        level, base = edited.logsumexp(-1), plain.logsumexp(-1)
        loss = level - edited.gather(-1, targets[:, None])[:, 0]
        gap = (plain - edited).mul_((plain - base[:, None]).exp_()).sum(-1) - base + level
        found.append((loss.double(), gap.double()))
    return found


def loss_sums(
    logits: Float[Tensor, "window pos vocab"], clean: Float[Tensor, "window pos vocab"], batch: Batch
) -> tuple[list[float], list[float]]:
    """Cross-entropy, and KL from the clean prediction, summed over the scored positions of each window, in nats."""
    found = token_losses(logits, clean, batch)
    return [float(loss.sum()) for loss, _ in found], [float(gap.sum()) for _, gap in found]


@torch.inference_mode()
def cross_entropies(logits: Float[Tensor, "window pos vocab"], batch: Batch) -> list[float]:
    """Cross-entropy alone, summed over the scored positions of each window, in nats."""
    targets = batch.ids[:, 1:].to(logits.device)
    rows = zip(logits, targets, batch.scored, strict=True)
    return [float(functional.cross_entropy(row[:-1][scored].float(), ids[scored], reduction="sum")) for row, ids, scored in rows]
