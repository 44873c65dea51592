"""SAELens: `cfg.json` and `sae_weights.safetensors`, of version 6 and before, finished or a training checkpoint.

A finished folder of a known layout is what saelab itself writes, with a block of its own that says the rest. All else is brought into that
form: a `cfg.json` from before version 6 is flat and has other names, and a checkpoint in training has its input scale beside the weights
and, for BatchTopK, one threshold for all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from saelab.dictionary import CONFIG_FILE, WEIGHTS_FILE, Dictionary, save_dictionary
from saelab.errors import Invalid
from saelab.interop.base import FORMATS, Foreign, Format, Origin, read_json
from saelab.provenance import Provenance
from saelab.tensors import read_tensors
from saelab.values import from_dict

_FOUR = ("W_enc", "b_enc", "W_dec", "b_dec")
LAYOUTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "standard": ("standard", _FOUR),
    "topk": ("topk", _FOUR),
    "abstopk": ("abstopk", _FOUR),
    "jumprelu": ("jumprelu", (*_FOUR, "threshold")),
    "gated": ("gated", ("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")),
    "transcoder": ("transcoder", _FOUR),
    "skip_transcoder": ("transcoder", (*_FOUR, "W_skip")),
    "jumprelu_transcoder": ("transcoder", (*_FOUR, "threshold")),
    "jumprelu_skip_transcoder": ("transcoder", (*_FOUR, "threshold", "W_skip")),
    "matching_pursuit": ("itda", ("W_dec", "b_dec")),
}
"""SAELens' architectures: the name under which saelab registers each, and the tensors of a file."""
_TRAINED_AS = {"batchtopk": "batchtopk", "matryoshka_batchtopk": "matryoshka"}
_RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
_UNIT = 1e-3
"""How far from 1 the norm of a row may lie that counts as 1."""
_SCALER = "activation_scaler.json"


@FORMATS.register("saelens")
class SAELens(Format):
    """Read and written."""

    files: ClassVar[str] = f"{CONFIG_FILE} and {WEIGHTS_FILE}"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A folder with both files."""
        return (path / CONFIG_FILE).is_file() and (path / WEIGHTS_FILE).is_file()

    @classmethod
    def read(cls, path: Path) -> Foreign:
        """What the folder holds. Raises `Invalid` for an architecture or a treatment of activations without counterpart."""
        file = path / CONFIG_FILE
        settings = _modern(read_json(file, {"d_in": int, "d_sae": int}))
        metadata = settings.get("metadata") or {}
        ours: Mapping[str, Any] = metadata.get("saelab") or {}
        layout = str(settings["architecture"])
        if layout not in LAYOUTS and layout not in _TRAINED_AS and not ours:
            raise Invalid(f"{file}: the architecture is {layout!r}; saelab reads {', '.join([*LAYOUTS, *_TRAINED_AS])} from SAELens.")
        _check(file, settings)
        if layout == "matching_pursuit":
            _check_pursuit(file, settings, read_tensors(path / WEIGHTS_FILE))
        tensors = _without_ones(path / WEIGHTS_FILE, read_tensors(path / WEIGHTS_FILE))
        settings, tensors = _scaled(path, settings, tensors)
        if "topk_threshold" in tensors:
            tensors["threshold"] = tensors.pop("topk_threshold").float().expand(settings["d_sae"])
        known = {**_TRAINED_AS, **{name: architecture for name, (architecture, _) in LAYOUTS.items()}}
        return Foreign(
            architecture=str(ours.get("architecture") or known[layout]),
            settings={**settings, **({"config": ours["config"]} if "config" in ours else {})},
            tensors=tensors,
            origin=Origin(
                model=metadata.get("model_name"),
                hook=metadata.get("hook_name"),
                target_hook=metadata.get("hook_name_out") if layout.endswith("transcoder") else None,
                prepend_bos=metadata.get("prepend_bos"),
                provenance=from_dict(Provenance, ours["provenance"]) if ours.get("provenance") else None,
            ),
            file=path / WEIGHTS_FILE,
        )

    @classmethod
    def write(cls, dictionary: Dictionary, folder: Path) -> None:
        """Writes a dictionary. Raises `Invalid` where SAELens has no architecture for it, `Conflict` if the folder cannot be written."""
        _, names = LAYOUTS.get(dictionary.layout, ("", ()))
        if {*names} != {*dictionary.tensors()}:
            raise Invalid(
                f"SAELens has no architecture for a dictionary of the kind {dictionary.architecture}, so nothing else could read it. "
                f"Its architectures are {', '.join(LAYOUTS)}."
            )
        save_dictionary(dictionary, folder)


def _modern(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as version 6 has them; before, everything stood flat in one object and TopK was an activation function."""
    metadata = config.get("metadata")
    if isinstance(metadata, dict) and int(str(metadata.get("sae_lens_version", "0")).split(".")[0]) >= 6:
        return dict(config)
    flat = {_RENAMED.get(name, name): item for name, item in config.items()}
    k = (flat.get("activation_fn_kwargs") or {}).get("k")
    topk = flat.get("activation_fn") == "topk" and k is not None
    normalise = flat.get("normalize_activations")
    said = {name: flat[name] for name in ("model_name", "hook_name", "prepend_bos") if name in flat}
    return {
        **flat,
        "architecture": "topk" if topk else flat.get("architecture", "standard"),
        **({"k": k} if topk else {}),
        "normalize_activations": "expected_average_only_in" if normalise is True else normalise or "none",
        "metadata": {**(metadata or {}), "prepend_bos": True, **said},
    }


def _check(file: Path, settings: Mapping[str, Any]) -> None:
    activation = settings.get("activation_fn", "relu")
    if activation not in {"relu", "topk"}:
        raise Invalid(f"{file}: the activation function is {activation!r}; saelab reads relu and topk.")
    if (settings.get("metadata") or {}).get("hook_head_index") is not None or settings.get("hook_head_index") is not None:
        raise Invalid(f"{file}: the dictionary reads one attention head (hook_head_index); saelab reads whole activations.")


def _check_pursuit(file: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Ours goes a fixed number of rounds over directions of norm 1; SAELens' may also stop early. What is not said is SAELens' default."""
    rounds = settings.get("max_iterations")
    wrong = {
        "residual_threshold is not 0": settings.get("residual_threshold", 0.01) != 0,
        "stop_on_duplicate_support is true": settings.get("stop_on_duplicate_support", True),
        f"max_iterations is not between 1 and d_sae, {settings['d_sae']}": not rounds or not 1 <= rounds <= settings["d_sae"],
        "rows of W_dec are not of norm 1": bool(((tensors["W_dec"].float().norm(dim=1) - 1).abs() > _UNIT).any()),
        "apply_b_dec_to_input is false": not settings.get("apply_b_dec_to_input", True),
    }
    found = [name for name, is_so in wrong.items() if is_so]
    if found:
        raise Invalid(
            f"{file}: {', '.join(found)}; saelab's matching pursuit takes a fixed number of rounds from the activation less b_dec."
        )


def _without_ones(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Old files carry a factor for each feature that is 1 unless it was fine-tuned; SAELens itself reads no other any more."""
    kept = dict(tensors)
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        factor = kept.pop(name, None)
        if factor is not None and not torch.allclose(factor, torch.ones_like(factor)):
            raise Invalid(f"{file}: {name} is not 1 everywhere. Multiply the rows of W_dec by it and save the dictionary again.")
    return kept


def _scaled(path: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Folds in what a checkpoint keeps beside its weights: the factor that brought training activations to a mean norm of √d."""
    kind, scaler = settings.get("normalize_activations", "none"), path / _SCALER
    folded = dict(settings)
    if settings.get("reshape_activations") == "hook_z":  # heads side by side, which is how saelab reads them
        folded["reshape_activations"] = "none"
    if kind != "expected_average_only_in":
        return folded, dict(tensors)
    scale = read_json(scaler).get("scaling_factor") if scaler.is_file() else None
    if not isinstance(scale, float):
        raise Invalid(
            f"{path / CONFIG_FILE}: normalize_activations is {kind!r} and no {_SCALER} beside it says the factor. Fold it with SAELens' "
            "fold_activation_norm_scaling_factor, save, and read that."
        )
    changed = {"W_enc": tensors["W_enc"] * scale, "W_dec": tensors["W_dec"] / scale, "b_dec": tensors["b_dec"] / scale}
    if "topk_threshold" in tensors and settings.get("rescale_acts_by_decoder_norm", True):  # it counts activation times decoder norm
        changed["topk_threshold"] = tensors["topk_threshold"] / scale
    return {**folded, "normalize_activations": "none"}, {**tensors, **changed}
