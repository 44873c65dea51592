"""Sites: where in a Hugging Face decoder the hooks of TransformerLens lie.

A hook is the input or the output of some submodule. The submodules of the common decoder families are found by their names; a hook that
a family does not have (such as the middle of a parallel block) is simply not in the list.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from saelab.errors import Invalid

_BLOCKS = ("layers", "h", "blocks")
_ATTENTION = ("self_attn", "attn", "attention")
_ATTENTION_OUT = ("o_proj", "c_proj", "dense", "out_proj")
_MLP = ("mlp", "feed_forward")
_MLP_OUT = ("down_proj", "c_proj", "dense_4h_to_h", "fc2")
_MIDDLE = (
    "pre_feedforward_layernorm",
    "post_attention_layernorm",
    "ln_2",
)  # Gemma's comes first: it has the second name for something else


@dataclass(frozen=True)
class Site:
    """The input or the output of one submodule."""

    module: nn.Module
    """The submodule."""
    side: Literal["in", "out"]
    """Which of the two."""

    @contextmanager
    def watched(self, read: Callable[[Tensor], None]) -> Generator[None]:
        """While open, `read` is called with the activation of each forward pass."""

        def same(x: Tensor) -> Tensor:
            read(x)
            return x

        with self.changed(same):
            yield

    @contextmanager
    def changed(self, change: Callable[[Tensor], Tensor]) -> Generator[None]:
        """While open, the activation of each forward pass is replaced by `change` of it."""
        handle = (
            self.module.register_forward_hook(_output_hook(change))
            if self.side == "out"
            else self.module.register_forward_pre_hook(_input_hook(change), with_kwargs=True)
        )
        try:
            yield
        finally:
            handle.remove()


def _output_hook(change: Callable[[Tensor], Tensor]) -> Callable[..., object]:
    def hook(_module: nn.Module, _inputs: object, output: Any) -> object:  # noqa: ANN401 - a tensor or a tuple that begins with one
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return hook


def _input_hook(change: Callable[[Tensor], Tensor]) -> Callable[..., object]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return hook


def find_sites(model: Any) -> Mapping[str, Site]:  # noqa: ANN401 - untyped by transformers
    """Every hook of a causal language model, by TransformerLens name, in the order of the forward pass. Raises `Invalid` for an unknown layout."""
    base = model.base_model
    owner = getattr(base, "decoder", base)
    blocks = _child(owner, _BLOCKS)
    if blocks is None:
        raise Invalid(f"{type(model).__name__} has no list of blocks under {', '.join(_BLOCKS)}; this decoder family is not supported.")
    sites: dict[str, Site] = {}
    for i, block in enumerate(blocks.children()):
        sites.update({f"blocks.{i}.{name}": site for name, site in _block_sites(block).items()})
    return sites


def _block_sites(block: nn.Module) -> dict[str, Site]:
    attention, mlp, middle = _child(block, _ATTENTION), _child(block, _MLP), _child(block, _MIDDLE)
    found: dict[str, tuple[nn.Module | None, Literal["in", "out"]]] = {
        "hook_resid_pre": (block, "in"),
        "attn.hook_z": (_child(attention, _ATTENTION_OUT), "in"),
        "hook_attn_out": (attention, "out"),
        "hook_resid_mid": (None if getattr(block, "use_parallel_residual", False) else middle, "in"),
        "mlp.hook_post": (_child(mlp, _MLP_OUT), "in"),
        "hook_mlp_out": (mlp, "out"),
        "hook_resid_post": (block, "out"),
    }
    return {name: Site(module, side) for name, (module, side) in found.items() if module is not None}


def _child(module: nn.Module | None, names: tuple[str, ...]) -> nn.Module | None:
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)
