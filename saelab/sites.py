"""Sites: where in a Hugging Face decoder the hooks of TransformerLens lie.

A hook is the input or the output of some submodule, or follows from some. The submodules of the common decoder families are found by their
names; a hook that a family does not have (such as the middle of a parallel block) is simply not in the list.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saelab.errors import Invalid

_BLOCKS = ("layers", "h", "blocks")
_ATTENTION = ("self_attn", "attn", "attention")
_ATTENTION_OUT = ("o_proj", "c_proj", "dense", "out_proj")
_MLP = ("mlp", "feed_forward")
_MLP_OUT = ("down_proj", "c_proj", "dense_4h_to_h", "fc2")
_MLP_NORM = ("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2")
_ATTENTION_POST, _MLP_POST = "post_attention_layernorm", "post_feedforward_layernorm"

Change = Callable[[Tensor], Tensor]
"""Gives a new activation for an old one; the very same tensor where nothing shall change."""


class Site(ABC):
    """Where one hook lies in a module."""

    @abstractmethod
    def changed(self, change: Change) -> AbstractContextManager[None]:
        """While open, the activation of each forward pass is replaced by `change` of it."""

    @contextmanager
    def watched(self, read: Callable[[Tensor], None]) -> Generator[None]:
        """While open, `read` is called with the activation of each forward pass."""

        def same(x: Tensor) -> Tensor:
            read(x)
            return x

        with self.changed(same):
            yield


@dataclass(frozen=True)
class Port(Site):
    """The input or the output of one submodule."""

    module: nn.Module
    """The submodule."""
    side: Literal["in", "out"]
    """Which of the two."""

    @contextmanager
    def changed(self, change: Change) -> Generator[None]:
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


@dataclass(frozen=True)
class Head(Site):
    """One attention head's share of the values that all heads write side by side."""

    heads: Site
    """All heads."""
    number: int
    """Which one."""
    num_heads: int
    """Heads in all."""

    def changed(self, change: Change) -> AbstractContextManager[None]:
        """While open, the head's values of each forward pass are replaced by `change` of them."""

        def within(x: Tensor) -> Tensor:
            parts = list(x.chunk(self.num_heads, dim=-1))
            new = change(parts[self.number])
            if new is parts[self.number]:
                return x
            parts[self.number] = new
            return torch.cat(parts, dim=-1)

        return self.heads.changed(within)


@dataclass(frozen=True)
class Middle(Site):
    """The residual stream between attention and MLP: what the MLP's branch reads, and what is added to its output.

    The module keeps the second copy to itself, so that a change of it is made up for at the end of the block.
    """

    branch: Site
    """Where the MLP's branch begins."""
    block: nn.Module
    """The block."""

    @contextmanager
    def changed(self, change: Change) -> Generator[None]:
        """While open, the activation of each forward pass is replaced by `change` of it, for the MLP and for the stream."""
        moved: list[Tensor] = []

        def begin(x: Tensor) -> Tensor:
            new = change(x)
            if new is not x:
                moved.append(new - x)
            return new

        with self.branch.changed(begin), Port(self.block, "out").changed(lambda out: out + moved.pop() if moved else out):
            yield


@dataclass(frozen=True)
class Update(Site):
    """What a block adds to the residual stream: its output minus its input."""

    block: nn.Module
    """The block."""

    @contextmanager
    def changed(self, change: Change) -> Generator[None]:
        """While open, what each forward pass adds is replaced by `change` of it; a change of nothing leaves every bit as it was."""

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> object:  # noqa: ANN401 - as below
            def added(out: Tensor) -> Tensor:
                update = out - (args[0] if args else kwargs["hidden_states"])
                new = change(update)
                return out if new is update else out + (new - update)

            return _output_hook(added)(_module, args, output)

        handle = self.block.register_forward_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def _output_hook(change: Change) -> Callable[..., object]:
    def hook(_module: nn.Module, _inputs: object, output: Any) -> object:  # noqa: ANN401 - a tensor or a tuple that begins with one
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return hook


def _input_hook(change: Change) -> Callable[..., object]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return hook


def find_blocks(model: Any) -> list[nn.Module]:  # noqa: ANN401 - untyped by transformers
    """The blocks of a causal language model, in order. Raises `Invalid` for a decoder family whose layout is unknown."""
    base = model.base_model
    blocks = _child(getattr(base, "decoder", base), _BLOCKS)
    if blocks is None:
        raise Invalid(f"{type(model).__name__} has no list of blocks under {', '.join(_BLOCKS)}; this decoder family is not supported.")
    return list(blocks.children())


def final_norm(model: Any) -> nn.Module:  # noqa: ANN401 - untyped by transformers
    """The normalisation before the unembedding. Raises `Invalid` for a model whose layout is unknown."""
    base = model.base_model
    for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm"):
        for owner in (base, getattr(base, "decoder", None)):
            if owner is not None and hasattr(owner, name):
                return getattr(owner, name)
    raise Invalid(f"The final norm of {type(model).__name__} was not found, so its logit lens cannot be computed.")


def find_sites(model: Any) -> Mapping[str, Site]:  # noqa: ANN401 - untyped by transformers
    """Every hook of a causal language model, by TransformerLens name, in the order of the forward pass.

    Two are our own: `blocks.N.hook_update`, and `blocks.N.attn.hook_z.H`, the values of head H alone.

    Raises `Invalid` for a decoder family whose layout is unknown.
    """
    num_heads = int(model.config.get_text_config().num_attention_heads)
    sites: dict[str, Site] = {}
    for i, block in enumerate(find_blocks(model)):
        sites.update({f"blocks.{i}.{name}": site for name, site in _block_sites(block, num_heads).items()})
    return sites


def _block_sites(block: nn.Module, num_heads: int) -> dict[str, Site]:
    attention, mlp = _child(block, _ATTENTION), _child(block, _MLP)
    z = _port(_child(attention, _ATTENTION_OUT), "in")
    attention_out, branch, mlp_out = _edges(block, attention, mlp)
    parallel = getattr(block, "use_parallel_residual", False)
    found: dict[str, Site | None] = {
        "hook_resid_pre": Port(block, "in"),
        "attn.hook_z": z,
        **({f"attn.hook_z.{head}": Head(z, head, num_heads) for head in range(num_heads)} if z else {}),
        "hook_attn_out": attention_out,
        "hook_resid_mid": Middle(branch, block) if branch and not parallel else None,
        "hook_mlp_in": branch,
        "mlp.hook_in": _port(mlp, "in"),
        "mlp.hook_post": _port(_child(mlp, _MLP_OUT), "in"),
        "hook_mlp_out": mlp_out,
        "hook_update": Update(block),
        "hook_resid_post": Port(block, "out"),
    }
    return {name: site for name, site in found.items() if site is not None}


def _edges(block: nn.Module, attention: nn.Module | None, mlp: nn.Module | None) -> tuple[Site | None, Site | None, Site | None]:
    """What attention adds to the stream, where the MLP's branch leaves it, and what the MLP adds.

    Families that normalise what attention and MLP write (Gemma 2, OLMo 2) use a name for that which others use before the MLP.
    """
    if not hasattr(block, _MLP_POST):
        return _port(attention, "out"), _port(_child(block, _MLP_NORM), "in"), _port(mlp, "out")
    before = _child(block, _MLP_NORM[:1])
    return _port(_child(block, (_ATTENTION_POST,)), "out"), _port(before or mlp, "in"), _port(_child(block, (_MLP_POST,)), "out")


def _port(module: nn.Module | None, side: Literal["in", "out"]) -> Port | None:
    return None if module is None else Port(module, side)


def _child(module: nn.Module | None, names: tuple[str, ...]) -> nn.Module | None:
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)
