"""Dictionaries: anything that writes activations as sums of directions.

An SAE, the neurons, the principal components and random directions share one interface: `encode` an activation to sparse `Codes`, `decode`
codes back, and `directions`, a row a feature. Codes may be negative: nothing may assume `z >= 0`.

Every dictionary works on raw activations at any time, in training too. A saved one is a folder that SAELens reads (`cfg.json`,
`sae_weights.safetensors`); see docs/formats.md. The scale of the training inputs is folded into the weights at every save, so that a file
needs nothing else.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from saelab.errors import Corrupt, Invalid, NotFound
from saelab.policy import TokenKind
from saelab.registry import Registry
from saelab.run import whole, write_atomically
from saelab.values import from_dict, to_dict, value

FORMAT = 1
"""Version of the `saelab` block of `cfg.json`."""
CONFIG_FILE = "cfg.json"
"""Settings of a saved dictionary."""
WEIGHTS_FILE = "sae_weights.safetensors"
"""Tensors of a saved dictionary."""
_SAELENS = "6.54.12"


@value
class Provenance:
    """Where a dictionary's activations come from; saved with it, so that every later reader treats tokens as training did."""

    model: str
    """Id of the subject."""
    hook: str
    """Hook that it reads, in TransformerLens names."""
    context: int
    """Tokens in a window."""
    prepend_bos: bool
    """Whether windows began with the beginning-of-sequence token."""
    skip_first: int
    """Positions at the start of every window that do not count: the first one is an attention sink."""
    special_ids: tuple[int, ...]
    """Ids of the subject's special tokens."""
    uncounted: tuple[TokenKind, ...] = ("bos", "special")
    """Kinds of tokens that do not count."""
    max_norm: float | None = None
    """Norm above which an activation is massive and does not count; none where all count."""


@dataclass(frozen=True)
class Codes:
    """Feature activations of some tokens, sparse.

    A slot that is not used holds value 0 (at any index). An index occurs at most once a token among the used slots.
    """

    indices: Int[Tensor, "*batch k"]
    """Which features are active."""
    values: Float[Tensor, "*batch k"]
    """Their activations; may be negative."""
    d_sae: int
    """Number of features of the dictionary."""

    def dense(self) -> Float[Tensor, "*batch {self.d_sae}"]:
        """The same as a dense array."""
        zeros = self.values.new_zeros(*self.values.shape[:-1], self.d_sae)
        return zeros.scatter_add(-1, self.indices, self.values)

    def l0(self) -> Float[Tensor, "*batch"]:
        """Number of active features of each token."""
        return (self.values != 0).sum(-1).to(self.values.dtype)

    @classmethod
    def from_dense(cls, z: Float[Tensor, "*batch d_sae"]) -> "Codes":
        """Codes of a dense array, with as many slots as the fullest token needs (at least one)."""
        active = z != 0
        slots = max(1, int(active.sum(-1).max())) if z.numel() else 1
        indices = active.to(torch.int8).topk(min(slots, z.shape[-1]), dim=-1, sorted=False).indices
        return cls(indices=indices, values=z.gather(-1, indices), d_sae=z.shape[-1])


class Dictionary(nn.Module, ABC):
    """Abstract: writes activations as sums of directions. A subclass is final and registers itself in `DICTIONARIES`."""

    architecture: ClassVar[str]
    """The name under which the class is registered."""
    layout: ClassVar[str]
    """The SAELens architecture whose file layout it is saved in."""
    d_in: int
    """Width of the activations."""
    d_sae: int
    """Number of features."""
    provenance: Provenance | None = None
    """Where its activations come from; none for one that was never given a subject."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """Feature activations of raw activations."""

    @abstractmethod
    def decode(self, codes: Codes) -> Float[Tensor, "*batch d_out"]:
        """The activations that the codes stand for."""

    @property
    def d_out(self) -> int:
        """Width of what it writes; that of what it reads, but for a transcoder."""
        return self.d_in

    @property
    @abstractmethod
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        """What one unit of each feature adds to the activation: the decoder's rows."""

    def ordinary(self, x: Float[Tensor, "*batch d_in"]) -> Bool[Tensor, "*batch"]:
        """Which activations are of ordinary size: massive ones were never read in training and must be left alone."""
        limit = None if self.provenance is None else self.provenance.max_norm
        norms = x.float().norm(dim=-1)
        return torch.ones_like(norms, dtype=torch.bool) if limit is None else norms <= limit

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What SAELens' `cfg.json` says beyond the sizes, such as k."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The weights under SAELens' names, for raw activations."""

    @classmethod
    @abstractmethod
    def shapes(cls, d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that a file must hold."""

    @classmethod
    @abstractmethod
    def restored(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The dictionary of a file's settings and tensors; settings hold the `config` of a trainable one that saelab saved."""


@dataclass(frozen=True)
class Losses:
    """What a training step learns of a batch."""

    terms: dict[str, Float[Tensor, ""]]
    """The named terms of the loss; their sum is minimised."""
    active: Float[Tensor, " d_sae"]
    """On how many rows each feature was active."""
    reconstruction: Float[Tensor, "row d_out"]
    """What the codes stand for, without gradient."""
    target: Float[Tensor, "row d_out"]
    """What they should stand for, without gradient: the activations, but for a transcoder."""


class Trainable(Dictionary):
    """Abstract: a dictionary that learns by gradient descent. It is made by `cls(d_in, config)`."""

    Config: ClassVar[type[Any]]
    """The value class of its settings."""
    config: Any
    """Its settings, a `Config`."""
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """Adam's decay rates that suit the architecture."""

    @property
    def width(self) -> int:
        """Values in a training row: the activation, and behind it whatever the architecture needs to know beside it."""
        return self.d_in

    @classmethod
    @abstractmethod
    def sized(cls, d_in: int, d_sae: int, l0: int) -> Self:
        """A dictionary of that size that aims at `l0` active features a token, other settings at their defaults."""

    @abstractmethod
    def initialise(self, sample: Float[Tensor, "row width"], generator: torch.Generator) -> None:
        """Sets the weights from the seed, and bias and input scale from a sample of training rows."""

    @abstractmethod
    def losses(self, rows: Float[Tensor, "row width"], dead: Int[Tensor, " dead"], progress: float) -> Losses:
        """The loss on training rows, without dimension: the same for activations of any size.

        `dead` are the features that have not been active for long; `progress` is the share of the run that is done, for warm-ups.
        """

    def before_step(self) -> None:
        """What the architecture does to its gradients before the optimiser step."""

    def after_step(self) -> None:
        """What the architecture does to its weights after the optimiser step, such as bringing decoder rows to unit norm."""

    @abstractmethod
    def default_lr(self) -> float:
        """The learning rate of the architecture at this width."""


DICTIONARIES: Registry[Dictionary] = Registry("dictionary", "saelab.saes", "saelab.baselines")
"""Every dictionary, trainable or not, by name."""


def save_dictionary(dictionary: Dictionary, folder: Path) -> None:
    """Writes a dictionary so that SAELens and `load_dictionary` can read it: weights first, settings last, each whole or not at all.

    Raises `Conflict` if the folder cannot be written.
    """
    with whole(folder / WEIGHTS_FILE) as half:
        save_file({name: tensor.detach().float().contiguous().cpu() for name, tensor in dictionary.tensors().items()}, half)
    write_atomically(folder / CONFIG_FILE, json.dumps(_settings(dictionary), indent=2) + "\n")


def _settings(dictionary: Dictionary) -> dict[str, Any]:
    origin = dictionary.provenance
    known: dict[str, Any] = {}
    if origin is not None:
        known = {"model_name": origin.model, "hook_name": origin.hook, "context_size": origin.context, "prepend_bos": origin.prepend_bos}
    ours = {"format": FORMAT, "architecture": dictionary.architecture, "provenance": None if origin is None else to_dict(origin)}
    if isinstance(dictionary, Trainable):
        ours["config"] = to_dict(dictionary.config)
    return {
        "architecture": dictionary.layout,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **dictionary.settings(),
        "metadata": {"sae_lens_version": _SAELENS, **known, "saelab": ours},
    }


def load_dictionary(folder: Path) -> Dictionary:
    """Reads a dictionary that saelab or SAELens saved.

    Raises `NotFound` if there is none or its architecture is unknown, `Corrupt` naming file and place if the files are not what they say,
    and `Invalid` if it needs a treatment of activations that saelab does not do.
    """
    file = folder / CONFIG_FILE
    settings = _read_settings(file)
    metadata = settings.get("metadata")
    ours: dict[str, Any] = (metadata.get("saelab") if isinstance(metadata, dict) else None) or {}
    if ours.get("format", FORMAT) != FORMAT:
        raise Corrupt(f"{file}: metadata.saelab.format is {ours['format']}; this version of saelab reads format {FORMAT}. Update saelab.")
    kind = DICTIONARIES[str(ours.get("architecture", settings["architecture"]))]
    for name in ("normalize_activations", "reshape_activations"):
        if settings.get(name, "none") != "none":
            raise Invalid(
                f"{file}: {name} is {settings[name]!r}; saelab reads only dictionaries saved with 'none', the treatment folded in."
            )
    tensors = _read_tensors(folder / WEIGHTS_FILE, kind.shapes(settings["d_in"], settings["d_sae"]))
    if "config" in ours:
        settings = {**settings, "config": ours["config"]}
    dictionary = kind.restored(settings, _conventional(settings, tensors))
    if ours.get("provenance") is not None:
        dictionary.provenance = from_dict(Provenance, ours["provenance"])
    return dictionary


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise NotFound(f"No dictionary in {file.parent}: {file.name} is missing. Train one with: saelab train")
    try:
        settings = json.loads(file.read_bytes())
    except ValueError as error:
        raise Corrupt(f"{file}: not JSON ({error}). Save the dictionary again.") from None
    expected = {"architecture": str, "d_in": int, "d_sae": int}
    wrong = [name for name, kind in expected.items() if not isinstance(settings, dict) or not isinstance(settings.get(name), kind)]
    if wrong:
        raise Corrupt(
            f"{file}: {' and '.join(wrong)} missing or of the wrong type. Expected architecture (text), d_in and d_sae (numbers)."
        )
    return cast("dict[str, Any]", settings)


def _read_tensors(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    if not file.is_file():
        raise NotFound(f"{file} is missing, though {CONFIG_FILE} is there. Copy the whole folder, or train the dictionary again.")
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: cast("Tensor", opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise Corrupt(f"{file}: truncated or not a safetensors file ({error}). Copy it again, or train the dictionary again.") from None
    for name in sorted({*shapes, *tensors}):
        if name not in tensors:
            raise Corrupt(f"{file}: tensor {name} of shape {list(shapes[name])} is missing. It holds {', '.join(sorted(tensors))}.")
        if name not in shapes:
            raise Corrupt(f"{file}: unexpected tensor {name}. Expected {', '.join(sorted(shapes))}.")
        if tuple(tensors[name].shape) != shapes[name]:
            raise Corrupt(f"{file}: tensor {name} has shape {list(tensors[name].shape)}; {CONFIG_FILE} says {list(shapes[name])}.")
        if not bool(tensors[name].isfinite().all()):
            raise Corrupt(f"{file}: tensor {name} holds values that are not finite. Train the dictionary again.")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _conventional(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function written our way: the decoder's bias subtracted from the input, activations not rescaled by decoder norms."""
    tensors = dict(tensors)
    if not settings.get("apply_b_dec_to_input", True):
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    if settings.get("rescale_acts_by_decoder_norm", False):
        norm = tensors["W_dec"].norm(dim=1).clamp(min=math.ulp(1.0))
        tensors |= {"W_enc": tensors["W_enc"] * norm, "b_enc": tensors["b_enc"] * norm, "W_dec": tensors["W_dec"] / norm[:, None]}
    return tensors
