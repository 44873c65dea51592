"""Compiled blocks: in long passes on a GPU each block of a subject runs as one fused program.

Each block is compiled by itself. The blocks of a model share one program, for windows of any number and length, so that compiling takes
seconds, and hooks lie between the programs; a block that is read inside runs as it is. Activations then differ by rounding, since a fused
program rounds less often to the model's number format. PyTorch's own `TORCH_COMPILE_DISABLE=1` turns compiling off.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed
from torch.nn.attention import SDPBackend, sdpa_kernel

from saelab.errors import Invalid

_WORTH_TOKENS = 2**20
"""About a second of work for a small model on a large GPU, where compiling takes some ten."""
_BETWEEN = ("hook_resid_pre", "hook_resid_post", "hook_update")
"""Hooks that see a block from outside."""
_ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kernels of attention that need no plan: cuDNN makes one for each number and length of windows, which takes longer than the pass."""


def worth_compiling(device: torch.device, num_tokens: int) -> bool:
    """Whether so many tokens in all go faster through compiled blocks."""
    return device.type == "cuda" and num_tokens >= _WORTH_TOKENS and find_spec("triton") is not None


def ready_attention(device: torch.device) -> AbstractContextManager[object]:
    """While open, attention on a GPU is computed by kernels that serve windows of any number and length at once."""
    return sdpa_kernel(_ATTENTION) if device.type == "cuda" else nullcontext()


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
