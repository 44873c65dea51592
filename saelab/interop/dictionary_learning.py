"""dictionary_learning (Marks, Karvonen, Mueller): `ae.pt`, a pickled state dict, and `config.json`.

The orientations differ from class to class: linear layers hold `encoder.weight [F, d]` and `decoder.weight [d, F]`, bare parameters
`W_enc [d, F]` and `W_dec [F, d]`. Only tensors are read from the pickle: `torch.load(weights_only=True)`. BatchTopK and Matryoshka encode
with the threshold that training followed; -1 stands for one that was never set.
"""

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from saelab.dictionary import Dictionary
from saelab.errors import Corrupt, Invalid
from saelab.interop.base import FORMATS, Foreign, Format, Origin, named, read_json
from saelab.run import whole, write_atomically

_WEIGHTS, _CONFIG = "ae.pt", "config.json"
_LAYERS = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "decoder.weight": "W_dec.T"}
_BARE = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_PLACES = {"resid_post": "hook_resid_post", "mlp_out": "hook_mlp_out", "attention_out": "hook_attn_out"}


@dataclass(frozen=True)
class _Class:
    """One class of the library, beside ours."""

    name: str
    trainer: str
    architecture: str
    names: Mapping[str, str]
    extra: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


_CLASSES = (
    _Class("AutoEncoder", "StandardTrainer", "standard", {**_LAYERS, "bias": "b_dec"}, settings={"rescale_acts_by_decoder_norm": True}),
    _Class("AutoEncoderTopK", "TopKTrainer", "topk", {**_LAYERS, "b_dec": "b_dec"}, ("k", "threshold")),
    _Class("BatchTopKSAE", "BatchTopKTrainer", "batchtopk", {**_LAYERS, "b_dec": "b_dec"}, ("k", "threshold")),
    _Class("MatryoshkaBatchTopKSAE", "MatryoshkaBatchTopKTrainer", "matryoshka", _BARE, ("k", "threshold", "group_sizes")),
    _Class(
        "JumpReluAutoEncoder", "JumpReluTrainer", "jumprelu", {**_BARE, "threshold": "threshold"}, settings={"apply_b_dec_to_input": False}
    ),
    _Class(
        "GatedAutoEncoder",
        "GatedSAETrainer",
        "gated",
        {
            "encoder.weight": "W_enc.T",
            "decoder.weight": "W_dec.T",
            "decoder_bias": "b_dec",
            "gate_bias": "b_gate",
            "mag_bias": "b_mag",
            "r_mag": "r_mag",
        },
    ),
    _Class(
        "AutoEncoderNew",
        "StandardTrainerNew",
        "standard",
        {**_LAYERS, "decoder.bias": "b_dec"},
        settings={"apply_b_dec_to_input": False},
    ),
)
_READ: Mapping[str, _Class] = {item.name: item for item in _CLASSES}
_WRITTEN: Mapping[str, _Class] = {item.architecture: item for item in reversed(_CLASSES)}


@FORMATS.register("dictionary_learning")
class DictionaryLearning(Format):
    """Read and written."""

    files: ClassVar[str] = f"{_WEIGHTS} and {_CONFIG}, or a checkpoint .pt with {_CONFIG} one folder up"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A folder with ae.pt, or a file that ends in .pt."""
        return (path / _WEIGHTS).is_file() or path.suffix == ".pt"

    @classmethod
    def read(cls, path: Path) -> Foreign:
        """What the folder or checkpoint holds. Raises `Invalid` for a class without counterpart or a threshold that was never set."""
        file = path / _WEIGHTS if path.is_dir() else path
        beside = next((folder / _CONFIG for folder in file.parents[:2] if (folder / _CONFIG).is_file()), None)
        if beside is None:
            raise Corrupt(f"There is no {_CONFIG} beside {file} or one folder up, which names the class. Copy the whole folder.")
        trainer = read_json(beside, {"trainer": dict})["trainer"]
        kind = _READ.get(str(trainer.get("dict_class")))
        if kind is None:
            raise Invalid(f"{beside}: dict_class is {trainer.get('dict_class')!r}; saelab reads {', '.join(_READ)}.")
        found = _unpickled(file)
        extra = {name: found.pop(name) for name in kind.extra if name in found}
        tensors = named(file, found, kind.names)
        d_in, d_sae = tensors["W_enc"].shape
        settings: dict[str, Any] = {"d_in": d_in, "d_sae": d_sae, **kind.settings}
        if "k" in kind.extra:
            settings["k"] = int(extra["k"]) if "k" in extra else trainer["k"]
        if kind.architecture in {"batchtopk", "matryoshka"}:
            tensors["threshold"] = _threshold(file, extra).expand(d_sae)
        if "group_sizes" in extra:
            settings["config"] = {"groups": [size / d_sae for size in extra["group_sizes"].tolist()]}
        return Foreign(architecture=kind.architecture, settings=settings, tensors=tensors, origin=_origin(trainer), file=file)

    @classmethod
    def write(cls, dictionary: Dictionary, folder: Path) -> None:
        """Writes a dictionary. Raises `Invalid` where the library has no class for it, `Conflict` if the folder cannot be written."""
        if dictionary.architecture not in _WRITTEN:
            raise Invalid(
                f"The format dictionary_learning cannot hold a dictionary of the architecture {dictionary.architecture}. "
                f"It holds: {', '.join(sorted(_WRITTEN))}."
            )
        kind, ours = _WRITTEN[dictionary.architecture], cast("Any", dictionary)
        tensors = _theirs(kind, {name: tensor.detach().float().cpu() for name, tensor in dictionary.tensors().items()})
        state = {name: _oriented(tensors, to) for name, to in kind.names.items()}
        if "k" in kind.extra:
            threshold = tensors["threshold"][0].clone() if "threshold" in tensors else torch.tensor(-1.0)
            state |= {"k": torch.tensor(ours.config.k, dtype=torch.int), "threshold": threshold}
        if "group_sizes" in kind.extra:
            state["group_sizes"] = torch.tensor((0, *ours.prefixes)).diff()
        with whole(folder / _WEIGHTS) as half:
            torch.save(state, half)
        write_atomically(folder / _CONFIG, json.dumps(_config(kind, dictionary), indent=2) + "\n")


def _oriented(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return tensors[name.removesuffix(".T")].T.contiguous() if name.endswith(".T") else tensors[name].contiguous()


def _theirs(kind: _Class, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function by the class' own convention: rows of norm 1 for AutoEncoder, no bias subtracted for JumpReluAutoEncoder."""
    if kind.name == "JumpReluAutoEncoder":
        return {**tensors, "b_enc": tensors["b_enc"] - tensors["b_dec"] @ tensors["W_enc"]}
    if kind.name == "AutoEncoder":
        norm = tensors["W_dec"].norm(dim=1)
        norm = torch.where(norm > 0, norm, torch.ones_like(norm))
        return {**tensors, "W_enc": tensors["W_enc"] * norm, "b_enc": tensors["b_enc"] * norm, "W_dec": tensors["W_dec"] / norm[:, None]}
    return tensors


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0]
        raise Corrupt(f"{file} holds something else than plain tensors, or is cut off; it was not opened further. {reason}") from None
    if not isinstance(found, dict) or not all(isinstance(item, Tensor) for item in found.values()):
        raise Corrupt(f"{file} holds no state dict: expected names and tensors.")
    return found


def _threshold(file: Path, extra: Mapping[str, Tensor]) -> Tensor:
    threshold = extra.get("threshold", torch.tensor(-1.0)).float()
    if float(threshold) < 0:
        raise Invalid(
            f"{file}: the threshold is {float(threshold):g}, so training ended before it was set, and nothing says when a feature is "
            "active. Train past threshold_start_step, or set the threshold and save again."
        )
    return threshold


def _origin(trainer: Mapping[str, Any]) -> Origin:
    """Model and hook; the library names submodules freely, so only its own usual names are understood, such as resid_post_layer_8."""
    found = re.fullmatch(r"(\w+)_layer_(\d+)", str(trainer.get("submodule_name")))
    place = _PLACES.get(found[1]) if found else None
    return Origin(model=trainer.get("lm_name"), hook=f"blocks.{found[2]}.{place}" if found and place else None)


def _config(kind: _Class, dictionary: Dictionary) -> dict[str, Any]:
    origin = dictionary.provenance
    found = re.fullmatch(r"blocks\.(\d+)\.(\w+)", origin.hook) if origin else None
    place = next((name for name, hook in _PLACES.items() if found and hook == found[2]), None)
    trainer: dict[str, Any] = {
        "trainer_class": kind.trainer,
        "dict_class": kind.name,
        "activation_dim": dictionary.d_in,
        "dict_size": dictionary.d_sae,
        "device": "cpu",
        "layer": int(found[1]) if found else None,
        "lm_name": origin.model if origin else None,
        "submodule_name": f"{place}_layer_{found[1]}" if found and place else None,
    }
    if "k" in kind.extra:
        trainer["k"] = cast("Any", dictionary).config.k
    return {"trainer": trainer, "buffer": {"d_submodule": dictionary.d_in, "io": "out", "ctx_len": origin.context if origin else None}}
