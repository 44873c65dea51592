"""Compiled blocks: in long passes on a GPU each block of a subject runs as one fused program, and attention needs nobody to wait.

Each block is compiled by itself. The blocks of a model share one program, for windows of any number and length, so that compiling takes
seconds, and hooks lie between the programs; a block that is read inside runs as it is. Activations then differ by rounding, since a fused
program rounds less often to the model's number format. PyTorch's own `TORCH_COMPILE_DISABLE=1` turns compiling off, and recording too.
"""

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn.attention import SDPBackend, sdpa_kernel

from saelab.errors import Invalid

_WORTH_TOKENS = 2**20
"""About a second of work for a small model on a large GPU, where compiling takes some ten."""
_LAUNCHED = 10**9
"""Parameters up to which a pass is so short that its launches count."""
_DECIDED = ("expert", "dynamic", "longrope")
"""Words in the configs of models that decide on the host what a pass does: which experts work, how far rotary angles are stretched."""
_SPANS = ("sliding_window", "attention_chunk_size")
"""How far attention reaches where it does not reach everywhere, as configs call it."""
_BETWEEN = ("hook_resid_pre", "hook_resid_post", "hook_update")
"""Hooks that see a block from outside."""
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kernels of attention that need no plan: cuDNN makes one for each number and length of windows, which takes longer than the pass."""


def worth_compiling(device: torch.device, num_tokens: int) -> bool:
    """Whether so many tokens in all go faster through compiled blocks."""
    wanted = os.environ.get("TORCH_COMPILE_DISABLE") != "1" and num_tokens >= _WORTH_TOKENS
    return wanted and device.type == "cuda" and find_spec("triton") is not None


def worth_recording(model: Any, length: int) -> bool:  # noqa: ANN401 - untyped by transformers
    """Whether a GPU waits for the launches of a model's passes, and passes over so many positions decide nothing on the host."""
    told = str(model.config.to_dict())
    return model.num_parameters() <= _LAUNCHED and only_causal(model, length) and not any(word in told for word in _DECIDED)


def only_causal(model: Any, length: int) -> bool:  # noqa: ANN401 - untyped by transformers
    """Whether all layers attend to every position before each of so many, and no others, through one of transformers' own functions."""
    config = model.config.get_text_config()
    spans = [getattr(config, name, None) for name in _SPANS]
    other = getattr(config, "use_bidirectional_attention", False) or not getattr(config, "is_causal", True)
    known = config._attn_implementation == "sdpa" and getattr(model, "_supports_attention_backend", False)
    return known and not other and all(span is None or length < span for span in spans)


@contextmanager
def ready_attention(model: Any, length: int) -> Generator[None]:  # noqa: ANN401 - untyped by transformers
    """While open, attention on a GPU is computed by kernels that serve windows of any number and length, and unmasked where it can be."""
    if model.device.type != "cuda":
        yield
        return
    with sdpa_kernel(_ATTENTION), unmasked(model, length):
        yield


@contextmanager
def unmasked(model: Any, length: int) -> Generator[None]:  # noqa: ANN401 - untyped by transformers
    """While open, a model whose attention is causal and no more is given no mask in passes over whole windows of so many positions.

    transformers finds out by itself that it needs none, but asks the GPU whether windows are packed, and the host waits for the answer,
    which comes behind all the work before it. For functions of attention whose masks it does not know it makes none, and does not ask.
    """
    config = model.config.get_text_config()
    usual = config._attn_implementation
    config._attn_implementation = _causal() if only_causal(model, length) else usual
    try:
        yield
    finally:
        config._attn_implementation = usual


@cache
def _causal() -> str:
    """The name of a function of attention that is transformers' own, but known to it without a mask."""
    from transformers import AttentionInterface

    AttentionInterface.register("saelab_causal", AttentionInterface()["sdpa"])
    return "saelab_causal"


class CompiledBlocks:
    """The programs of a model's blocks, made when they are first needed.

    Arguments:
    - `blocks`: the blocks, in order.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._blocks = list(blocks)
        self._programs: dict[int, Callable[..., Tensor]] = {}

    @contextmanager
    def running(self, hooks: Sequence[str]) -> Generator[None]:
        """While open, all blocks run as programs but those that one of the hooks is inside of.

        Raises `Invalid` where compiling fails, with how to do without.
        """
        inside = {int(hook.split(".")[1]) for hook in hooks if not hook.endswith(_BETWEEN)}
        chosen = [number for number in range(len(self._blocks)) if number not in inside]
        for number in chosen:
            self._blocks[number].forward = self._program(number)
        try:
            yield
        except BackendCompilerFailed as error:
            reason = " ".join(str(error).split("\n")[:2])
            raise Invalid(
                f"The model's blocks cannot be compiled here: {reason}. TORCH_COMPILE_DISABLE=1 runs them as they are."
            ) from error
        finally:
            for number in chosen:
                del self._blocks[number].forward  # which uncovers the method of the class

    def _program(self, number: int) -> Callable[..., Tensor]:
        if number not in self._programs:
            self._programs[number] = torch.compile(self._blocks[number].forward, dynamic=True)
        return self._programs[number]
