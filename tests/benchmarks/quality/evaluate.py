"""What a trained dictionary is worth, by the same code for every library.

FVU and L0 on all held-out rows, shares of dead and dense features, and the increase of the next-token loss when reconstructions are
spliced into the subject. Intervals are by bootstrap over documents.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from rows import HOOK, Rows, Text
from torch import Tensor
from torch.nn import functional

from saelab.estimates import ratio
from saelab.passes import Edits
from saelab.subject import Subject

Reconstruct = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Standard rows to their reconstruction and to which features were active, `[row d_sae]`."""
DEAD_ROWS, CHUNK, LOSS_BATCH = 2_000_000, 4096, 32


@dataclass
class Judge:
    """Judges reconstructions; what does not depend on them is computed once."""

    subject: Subject
    text: Text
    rows: Rows
    windows: np.ndarray
    """Held-out windows for the losses."""
    clean: np.ndarray
    """Loss of each of them, summed over its predictions."""

    @classmethod
    def prepare(cls, subject: Subject, text: Text, rows: Rows, windows: int) -> "Judge":
        whole = np.flatnonzero(text.held_out & (text.length == text.length.max()))
        chosen = np.sort(np.random.default_rng(0).permutation(whole)[:windows])
        judge = cls(subject, text, rows, chosen, np.zeros(0))
        judge.clean = judge.losses({})
        return judge

    @torch.inference_mode()
    def judge(self, reconstruct: Reconstruct, steps: int, batch: int) -> dict[str, object]:
        """All measures of a dictionary that was trained for so many steps."""
        documents = np.unique(self.rows.document, return_inverse=True)[1]
        place = torch.from_numpy(documents).to(self.rows.held_out.device)
        mean = self.rows.held_out.double().mean(0).float()
        sums = torch.zeros(4, int(documents.max()) + 1, dtype=torch.float64, device=place.device)
        firing: Tensor | int = 0
        for x, where in zip(self.rows.held_out.split(CHUNK), place.split(CHUNK), strict=True):
            found, active = reconstruct(x.float())
            parts = ((x - found).square().sum(-1), (x - mean).square().sum(-1), active.sum(-1), torch.ones(len(x), device=x.device))
            sums.index_add_(1, where, torch.stack([part.double() for part in parts]))
            firing = firing + active.sum(0)
        error, spread, active, count = sums.cpu().numpy()
        seen = np.arange(len(count))
        spliced = self.losses({HOOK: self._splice(reconstruct)})
        predictions = np.full(len(self.windows), self.text.length.max() - 2, dtype=float)
        fvu = ratio(error, spread, seen)
        increase = ratio(spliced - self.clean, predictions, self.text.document[self.windows])
        return {
            "l0": ratio(active, count, seen).value,
            "fvu": fvu.value,
            "fvu_interval": [fvu.low, fvu.high],
            "ce_increase": increase.value,
            "ce_interval": [increase.low, increase.high],
            "ce_clean": float(self.clean.sum() / predictions.sum()),
            "dead": self._dead(reconstruct, steps, batch),
            "dense": float((firing > 0.1 * len(self.rows.held_out)).float().mean()),
        }

    def _dead(self, reconstruct: Reconstruct, steps: int, batch: int) -> float:
        """Share of the features that fire on none of the last rows of the training."""
        fired: Tensor | None = None
        for step in range(max(0, steps - DEAD_ROWS // batch), steps):
            now = reconstruct(self.rows.batch(step, batch))[1].any(0)
            fired = now if fired is None else fired | now
        return 0.0 if fired is None else float((~fired).float().mean())

    def _splice(self, reconstruct: Reconstruct) -> Callable[[Tensor, Tensor], Tensor]:
        def edit(x: Tensor, mask: Tensor) -> Tensor:
            kept = mask & (x.float().norm(dim=-1) <= self.rows.limit)
            found = x.clone()
            found[kept] = self.rows.raw(reconstruct(self.rows.standard(x[kept]))[0]).to(x.dtype)
            return found

        return edit

    @torch.inference_mode()
    def losses(self, edits: Edits) -> np.ndarray:
        """Next-token losses of each window, summed over the predictions from position 1 on."""
        return np.concatenate([self._batch_losses(chosen, edits) for chosen in self._batches()])

    def _batches(self) -> Iterator[np.ndarray]:
        return (self.windows[at : at + LOSS_BATCH] for at in range(0, len(self.windows), LOSS_BATCH))

    def _batch_losses(self, chosen: np.ndarray, edits: Edits) -> np.ndarray:
        tokens = self.text.padded(chosen).to(self.subject.device)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[:, 0] = False
        logits = self.subject.logits(tokens, edits, mask)[:, 1:-1].float()
        losses = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 2:].flatten(), reduction="none")
        return losses.view(len(chosen), -1).double().sum(1).cpu().numpy()
