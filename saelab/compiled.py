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
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn.attention import SDPBackend, sdpa_kernel

from saelab.errors import Invalid
from saelab.recording import Recording

T = TypeVar("T")

_WORTH_TOKENS = 2**20
"""About a second of work for a small model on a large GPU, where compiling takes some ten."""
_LAUNCHED = 10**9
"""Parameters up to which a pass is so short that its launches count."""
_DECIDED = ("expert", "dynamic", "longrope")
"""Words in the configs of models that decide on the host what a pass does: which experts work, how far rotary angles are stretched."""
_ANSWERS: dict[str, Callable[..., object]] = {"find_packed_sequence_indices": lambda *_: None, "is_tracing": lambda *_: False}
"""What functions of transformers would find out about windows, one in a row, in passes that nobody traces."""
_BETWEEN = ("hook_resid_pre", "hook_resid_post", "hook_update")
"""Hooks that see a block from outside."""
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kernels of attention that need no plan: cuDNN makes one for each number and length of windows, which takes longer than the pass."""


def worth_compiling(device: torch.device, num_tokens: int) -> bool:
    """Whether so many tokens in all go faster through compiled blocks."""
    wanted = os.environ.get("TORCH_COMPILE_DISABLE") != "1" and num_tokens >= _WORTH_TOKENS
    return wanted and device.type == "cuda" and find_spec("triton") is not None


def worth_recording(model: Any) -> bool:  # noqa: ANN401 - untyped by transformers
    """Whether a GPU waits for the launches of a model's passes, and passes decide nothing on the host."""
    told = str(model.config.to_dict())
    return model.num_parameters() <= _LAUNCHED and not any(word in told for word in _DECIDED)


def recorded(run: Callable[[Tensor], T]) -> Callable[[Tensor], T]:
    """A pass that is recorded for each shape that comes twice; it raises `Invalid` where that fails, with how to do without."""
    recording = Recording(run)

    def passed(tokens: Tensor) -> T:
        try:
            return recording(tokens)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).split("\n")[0]
            raise Invalid(
                f"The model's passes cannot be recorded here: {reason}. TORCH_COMPILE_DISABLE=1 runs them as they are."
            ) from error

    return passed


@contextmanager
def ready_attention(device: torch.device) -> Generator[None]:
    """While open, attention on a GPU is computed by kernels that serve windows of any number and length, and nobody waits for it."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel(_ATTENTION), unasked():
        yield


@contextmanager
def unasked() -> Generator[None]:
    """While open, transformers knows without asking that no row holds several texts, and that nobody traces what it does.

    To find out the one it asks the GPU in each pass, and the host waits for the answer, which comes behind all the work before it. Because
    of the other it would make masks for a pass that is recorded where it makes none for the same pass when it is run.
    """
    masks, usual = _masks()
    for name in usual:
        setattr(masks, name, _ANSWERS[name])
    try:
        yield
    finally:
        for name, function in usual.items():
            setattr(masks, name, function)


@cache
def _masks() -> tuple[ModuleType, dict[str, Callable[..., object]]]:
    """The module of transformers that makes masks, and those of its functions that there is an answer for."""
    from transformers import masking_utils

    return masking_utils, {name: getattr(masking_utils, name) for name in _ANSWERS if hasattr(masking_utils, name)}


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
