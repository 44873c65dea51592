"""TransformerLens' own view of a subject: every hook point that it knows, in float32, at about half the speed of the plain module."""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.errors import Invalid

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_SWITCHES = {
    "attn.hook_result": "set_use_attn_result",
    "hook_attn_in": "set_use_attn_in",
    "hook_q_input": "set_use_split_qkv_input",
    "hook_k_input": "set_use_split_qkv_input",
    "hook_v_input": "set_use_split_qkv_input",
}
"""Hooks that fire only when told to."""
_NOT_A_VECTOR = ("hook_pattern", "hook_attn_scores", "hook_cos", "hook_sin")
"""Hooks whose arrays are about pairs of positions or no token at all."""


def boot(path: str, model: Any, tokenizer: Any) -> TransformerBridge:  # noqa: ANN401 - untyped by transformers
    """The bridge over a float32 model, which it rewires. Imports TransformerLens, which is slow, here and nowhere else."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(path, hf_model=model, tokenizer=tokenizer, device=str(model.device), dtype=torch.float32)


def bridge_activations(
    bridge: TransformerBridge, tokens: Int[Tensor, "window pos"], hooks: Sequence[str]
) -> dict[str, Float[Tensor, "window pos d"]]:
    """Activations at hooks of the bridge; of more axes than one a token, such as heads, the last are made one.

    Raises `Invalid` for a hook that the model never reaches, or that has no vector for each token.
    """
    layers = [re.match(r"blocks\.(\d+)\.", hook) for hook in hooks]
    stop = max((int(found[1]) + 1 for found in layers if found), default=None) if all(layers) else None
    with _switched_on(bridge, {switch for hook in hooks for ending, switch in _SWITCHES.items() if hook.endswith(ending)}):
        _, cache = bridge.run_with_cache(tokens, names_filter=list(hooks), stop_at_layer=stop, prepend_bos=False)
    found = dict(cache.items())
    return {hook: _vectors(hook, found.get(hook), tokens) for hook in hooks}


@contextmanager
def _switched_on(bridge: TransformerBridge, switches: Collection[str]) -> Generator[None]:
    for switch in switches:
        getattr(bridge, switch)(True)
    try:
        yield
    finally:
        for switch in switches:
            getattr(bridge, switch)(False)


def _vectors(hook: str, x: Tensor | None, tokens: Tensor) -> Float[Tensor, "window pos d"]:
    if x is None:
        raise Invalid(f"TransformerLens knows the hook {hook}, but this model never reaches it. Choose another.")
    if x.ndim < 3 or x.shape[:2] != tokens.shape or not x.is_floating_point() or hook.endswith(_NOT_A_VECTOR):
        raise Invalid(f"The hook {hook} gives an array of shape {list(x.shape)}, not a vector for each token. Choose another.")
    return x.flatten(2)
