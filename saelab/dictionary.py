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
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from saelab.errors import Corrupt, Invalid, NotFound
from saelab.provenance import Provenance
from saelab.registry import Registry
from saelab.run import whole, write_atomically
from saelab.tensors import checked_tensors, read_tensors
from saelab.values import from_dict, to_dict

FORMAT = 1
"""Version of the `saelab` block of `cfg.json`."""
CONFIG_FILE = "cfg.json"
"""Settings of a saved dictionary."""
WEIGHTS_FILE = "sae_weights.safetensors"
"""Tensors of a saved dictionary."""
_SAELENS = "6.54.12"
Places = Literal["hook", "target", "hooks", "labelled"]
"""On what a dictionary is trained or fitted: one hook's activations; those with another hook's as target; those of several hooks side by
side; or one hook's with the label of a concept behind."""


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
        return self.values.new_zeros(*self.values.shape[:-1], self.d_sae).scatter_add(-1, self.indices, self.values)

    def l0(self) -> Float[Tensor, "*batch"]:
        """Number of active features of each token."""
        return (self.values != 0).sum(-1).to(self.values.dtype)

    @classmethod
    def from_dense(cls, z: Float[Tensor, "*batch d_sae"]) -> "Codes":
        """Codes of a dense array, with as many slots as the fullest token needs (at least one)."""
        rows = z.reshape(-1, z.shape[-1])
        row, feature = rows.nonzero(as_tuple=True)
        counts = torch.bincount(row, minlength=len(rows))
        slot = torch.arange(len(row), device=z.device) - (counts.cumsum(0) - counts)[row]
        shape = len(rows), max(1, int(counts.max())) if len(rows) else 1
        indices = row.new_zeros(shape).index_put((row, slot), feature)
        values = rows.new_zeros(shape).index_put((row, slot), rows[row, feature])
        return cls(indices=indices.view(*z.shape[:-1], shape[1]), values=values.view(*z.shape[:-1], shape[1]), d_sae=z.shape[-1])


class Dictionary(nn.Module, ABC):
    """Abstract: writes activations as sums of directions. A subclass is final and registers itself in `DICTIONARIES`."""

    architecture: ClassVar[str]
    """The name under which the class is registered."""
    layout: ClassVar[str]
    """The SAELens architecture whose file layout it is saved in."""
    Config: ClassVar[type[Any]]
    """The value class of its settings: what a trainable one is made from, or what `fit` of a baseline takes beside activations."""
    places: ClassVar[Places] = "hook"
    """On what it is trained or fitted."""
    bias_is_read: ClassVar[bool] = True
    """Whether the decoder's bias is taken off what is read; not in a transcoder, which writes something else."""
    d_in: int
    """Width of the activations."""
    d_sae: int
    """Number of features."""
    provenance: Provenance | None = None
    """Where its activations come from; none for one that was never given a subject."""

    def locate(self, origin: Provenance) -> None:
        """Tells it where its activations come from. Raises `Invalid` where they are not for it."""
        self.provenance = origin

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Codes:
        """Feature activations of raw activations."""

    @abstractmethod
    def decode(self, codes: Codes) -> Float[Tensor, "*batch d_out"]:
        """The activations that the codes stand for."""

    def written(self, x: Float[Tensor, "*batch d_in"], codes: Codes) -> Float[Tensor, "*batch d_out"]:
        """All that it writes for activations with these codes: what the codes stand for, and what passes beside them."""
        del x  # only a skip connection uses it
        return self.decode(codes)

    @property
    def d_out(self) -> int:
        """Width of what it writes; that of what it reads, but for a transcoder."""
        return self.d_in

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of what it writes at each hook; several for a crosscoder."""
        return (self.d_out,)

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
    def shapes_in(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Shapes that the tensors of a file with these settings must have, where more than the two widths decides."""
        del tensors
        return cls.shapes(settings["d_in"], settings["d_sae"])

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
    target: Float[Tensor, "row d_out"]
    """What the codes should stand for, without gradient: the activations, but for a transcoder."""
    residual: Float[Tensor, "row d_out"]
    """What they leave of it, without gradient."""
    error: Float[Tensor, ""]
    """The sum of its squares."""
    variance: Float[Tensor, ""]
    """The sum of the target's squared distances from its mean."""
    counts: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
    """Further numbers for the log, of which a line has the mean over its steps."""


class Trainable(Dictionary):
    """Abstract: a dictionary that learns by gradient descent. It is made by `cls(d_in, config)`."""

    config: Any
    """Its settings, a `Config`."""
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """Adam's decay rates that suit the architecture."""
    recordable: ClassVar[bool] = False
    """Whether a step can be recorded (`saelab.recording`): same shapes each time, no decision on the host, `progress` read as a tensor."""

    @property
    def width(self) -> int:
        """Values in a training row: the activation, and behind it whatever the architecture needs to know beside it."""
        return self.d_in

    @classmethod
    def for_widths(cls, widths: Sequence[int], config: Any) -> Self:  # noqa: ANN401 - the class' own Config
        """A dictionary for the activations of some hooks, whose widths are given in the order in which a training row holds them."""
        return cls(widths[0], config)

    @classmethod
    @abstractmethod
    def sized(cls, d_in: int, d_sae: int, l0: int) -> Self:
        """A dictionary of that size that aims at `l0` active features a token, other settings at their defaults."""

    @abstractmethod
    def initialise(self, sample: Float[Tensor, "row width"], generator: torch.Generator) -> None:
        """Sets the weights from the seed, and bias and input scale from a sample of training rows."""

    @abstractmethod
    def losses(self, rows: Float[Tensor, "row width"], dead: Int[Tensor, " dead"], progress: float | Float[Tensor, ""]) -> Losses:
        """The loss on training rows, the same whatever their unit; `dead` are features that have not been active for long, -1 none."""

    def plan(self) -> Hashable:
        """Decides every 16 steps, never waiting for the device, how the next ones are done; steps of the kind that it gives are alike."""
        return None

    def unit_rows(self) -> tuple[nn.Parameter, ...]:
        """Weights whose rows the optimiser keeps at norm 1."""
        return ()

    def after_step(self) -> None:
        """What the architecture does after the optimiser step."""

    @abstractmethod
    def default_lr(self) -> float:
        """The learning rate of the architecture at this width."""


DICTIONARIES: Registry[Dictionary] = Registry("dictionary", "saelab.saes", "saelab.baselines")
"""Every dictionary, trainable or not, by name."""


_LAYOUTS: Mapping[str, str] = dict.fromkeys(
    ("skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder", "topk_transcoder", "topk_skip_transcoder"), "transcoder"
)
"""The dictionary behind each file layout that does not bear its name."""


def save_dictionary(dictionary: Dictionary, folder: Path) -> None:
    """Writes a dictionary so that SAELens and `load_dictionary` can read it: weights first, settings last, each whole or not at all.

    Raises `Conflict` if the folder cannot be written.
    """
    with whole(folder / WEIGHTS_FILE) as half:
        save_file({name: tensor.detach().float().contiguous().cpu() for name, tensor in dictionary.tensors().items()}, half)
    write_atomically(folder / CONFIG_FILE, json.dumps(settings_of(dictionary), indent=2) + "\n")


def settings_of(dictionary: Dictionary) -> dict[str, Any]:
    """What the `cfg.json` of a dictionary says."""
    origin = dictionary.provenance
    known: dict[str, Any] = {}
    if origin is not None:
        known = {"model_name": origin.model, "hook_name": origin.hook, "context_size": origin.context, "prepend_bos": origin.prepend_bos}
    if origin is not None and origin.target_hook is not None:
        known["hook_name_out"] = origin.target_hook
    ours = {"format": FORMAT, "architecture": dictionary.architecture, "provenance": None if origin is None else to_dict(origin)}
    if isinstance(dictionary, Trainable):
        ours["config"] = to_dict(dictionary.config)
    return {
        "architecture": dictionary.layout,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.bias_is_read,
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
    if not file.is_file():
        raise NotFound(f"No dictionary in {file.parent}: {file.name} is missing. Train one with: saelab train")
    try:
        settings = json.loads(file.read_bytes())
    except ValueError as error:
        raise Corrupt(f"{file}: not JSON ({error}). Save the dictionary again.") from None
    checked = checked_settings(settings, str(file))
    return dictionary_of(checked, read_tensors(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)


def checked_settings(settings: object, where: str) -> dict[str, Any]:
    """The contents of a `cfg.json`. Raises `Corrupt` naming `where` it stands if they are not those of a dictionary that saelab reads."""
    expected = {"architecture": str, "d_in": int, "d_sae": int}
    wrong = [name for name, kind in expected.items() if not isinstance(settings, dict) or not isinstance(settings.get(name), kind)]
    if wrong:
        raise Corrupt(f"{where}: {' and '.join(wrong)} missing or of the wrong type. architecture is text, d_in and d_sae are numbers.")
    found = cast("dict[str, Any]", settings)
    ours = _ours(found)
    if ours.get("format", FORMAT) != FORMAT:
        raise Corrupt(f"{where}: metadata.saelab.format is {ours['format']}; this version of saelab reads format {FORMAT}. Update saelab.")
    return {**found, "config": ours["config"]} if "config" in ours else found


def dictionary_of(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], file: Path) -> Dictionary:
    """The dictionary of checked settings and of tensors from a file, with its provenance. Raises what `assemble` raises."""
    ours = _ours(settings)
    dictionary = assemble(kind_of(settings).architecture, settings, tensors, file)
    if ours.get("provenance") is not None:
        dictionary.provenance = from_dict(Provenance, ours["provenance"])
    return dictionary


def kind_of(settings: Mapping[str, Any]) -> type[Dictionary]:
    """The class of checked settings. Raises `NotFound` for an architecture that is not registered."""
    name = str(_ours(settings).get("architecture", settings["architecture"]))
    return DICTIONARIES[_LAYOUTS.get(name, name)]


def _ours(settings: Mapping[str, Any]) -> dict[str, Any]:
    metadata = settings.get("metadata")
    return (metadata.get("saelab") if isinstance(metadata, dict) else None) or {}


def assemble(architecture: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], file: Path) -> Dictionary:
    """The dictionary of a registered architecture, from SAELens' settings and tensors; `file` is where the tensors come from.

    Raises `NotFound` for one that is not registered, `Corrupt` for tensors that are not those of the settings, and `Invalid` for a
    treatment of activations that saelab does not do.
    """
    kind = DICTIONARIES[_LAYOUTS.get(architecture, architecture)]
    for name in ("normalize_activations", "reshape_activations"):
        if settings.get(name, "none") != "none":
            raise Invalid(f"{file}: {name} is {settings[name]!r}; saelab reads only those saved with 'none', the treatment folded in.")
    checked = checked_tensors(file, tensors, kind.shapes_in(settings, tensors))
    return kind.restored(settings, _conventional(kind, settings, checked))


def _conventional(kind: type[Dictionary], settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same function written our way: the decoder's bias subtracted from the input, activations not rescaled by decoder norms."""
    tensors = dict(tensors)
    biases = [name for name in ("b_enc", "b_gate", "b_mag") if name in tensors]
    if kind.bias_is_read and not settings.get("apply_b_dec_to_input", True):
        shift = tensors["b_dec"] @ tensors["W_enc"]
        for name in biases:
            tensors[name] = tensors[name] + (shift * tensors["r_mag"].exp() if name == "b_mag" else shift)
    if settings.get("rescale_acts_by_decoder_norm", False):
        norm = tensors["W_dec"].norm(dim=1).clamp(min=math.ulp(1.0))
        tensors |= {name: tensors[name] * norm for name in ("W_enc", *biases)} | {"W_dec": tensors["W_dec"] / norm[:, None]}
    return tensors
