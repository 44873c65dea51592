"""Forward passes that share what they have in common: texts after one prefix, and changes of the same tokens at one hook."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

Edit = Callable[[Float[Tensor, "window pos d"], Bool[Tensor, "window pos"]], Float[Tensor, "window pos d"]]
"""A change of activations: takes them with the positions that may be changed, and gives the new ones."""
Edits = Mapping[str, Edit]
"""Edits by hook name."""

_LOGITS = 2**28
"""Logits that a pass may make at once."""


def edit_by_row(rows: Sequence[Edits]) -> dict[str, Edit]:
    """One edit a hook that gives each row to its own edit and leaves the others alone."""

    def edit_of(hook: str) -> Edit:
        def edit(x: Tensor, mask: Tensor) -> Tensor:
            parts = [edits[hook](x[i : i + 1], mask[i : i + 1]) if hook in edits else x[i : i + 1] for i, edits in enumerate(rows)]
            return torch.cat(parts)

        return edit

    return {hook: edit_of(hook) for edits in rows for hook in edits}


def losses_after(
    model: Any,  # noqa: ANN401 - untyped by transformers
    prefix: Sequence[int],
    texts: Sequence[Sequence[int]],
) -> list[Float[Tensor, " pos"]]:
    """Next-token losses of some texts, each behind the same prefix, in nats. The prefix is read once; all texts share its keys and values.

    Arguments:
    - `model`: a Hugging Face causal language model.
    - `prefix`: token ids, not empty.
    - `texts`: token ids, none of them empty.
    """
    read = model(input_ids=torch.tensor([list(prefix)], device=model.device), use_cache=True, logits_to_keep=1)
    longest, found = max(map(len, texts)), list[Tensor]()
    rows = max(1, _LOGITS // (longest * read.logits.shape[-1]))
    for begin in range(0, len(texts), rows):
        some = texts[begin : begin + rows]
        cache = deepcopy(read.past_key_values)
        cache.batch_repeat_interleave(len(some))
        tokens = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in some], device=model.device)
        logits = model(input_ids=tokens, past_key_values=cache, use_cache=True).logits
        for row, ids in enumerate(some):
            scores = torch.cat([read.logits[0, -1:], logits[row, : len(ids) - 1]]).float()
            found.append(scores.logsumexp(-1) - scores.gather(-1, tokens[row, : len(ids), None])[:, 0])
    return found


@contextmanager
def frozen_below(blocks: Sequence[nn.Module], number: int, run: Callable[[], Tensor]) -> Generator[Tensor]:
    """While open, passes over the tokens of `run` begin at block `number`: those before it give what the last of them gave in that run.

    Gives what `run` does.
    """
    given: list[object] = []
    handles = [block.register_forward_hook(lambda _block, _args, output: given.append(output)) for block in blocks[:number][-1:]]
    try:
        found = run()
    finally:
        for handle in handles:
            handle.remove()
    for block in blocks[:number]:
        block.forward = lambda *_args, **_kwargs: given[0]
    try:
        yield found
    finally:
        for block in blocks[:number]:
            del block.forward  # which uncovers the method of the class
