"""Llama Scope, as llamascopium saves it: `config.json` and `sae_weights.safetensors`.

    x' = x · √d / norm        z = act((x' W_E + b_E) · |W_D|) / |W_D|        x̂ = (z W_D + b_D) · norm_out / √d

`norm` is the mean norm of the activations in training: it is folded into the weights, so that raw activations give the library's own codes.
Thresholds are stored as logarithms; `sparsity_include_decoder_norm` says whether |W_D| stands in the formula. OpenMOSS,
https://github.com/OpenMOSS/Language-Model-SAEs; He et al. 2024, https://arxiv.org/abs/2410.20526.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from saelab.dictionary import WEIGHTS_FILE
from saelab.errors import Corrupt, Invalid
from saelab.interop.base import FORMATS, Foreign, Format, Origin, named, read_json
from saelab.tensors import read_tensors

_CONFIG = "config.json"
_NAMES = {"W_E": "W_enc", "b_E": "b_enc", "W_D": "W_dec", "b_D": "b_dec"}
_LOG = "activation_function.log_jumprelu_threshold"
_NORM = "dataset_average_activation_norm."
_ARCHITECTURES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu"}


@FORMATS.register("llama_scope")
class LlamaScope(Format):
    """Read only."""

    files: ClassVar[str] = f"{_CONFIG} and {WEIGHTS_FILE}"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A folder with both files."""
        return (path / _CONFIG).is_file() and (path / WEIGHTS_FILE).is_file()

    @classmethod
    def read(cls, path: Path) -> Foreign:
        """What the folder holds. Raises `Invalid` for what is no plain SAE of one hook, or needs other rows of the batch to encode one."""
        file = path / WEIGHTS_FILE
        config = read_json(path / _CONFIG, {"sae_type": str, "d_model": int, "act_fn": str, "hook_point_in": str, "hook_point_out": str})
        _check(path / _CONFIG, config)
        found = read_tensors(file)
        norms = {name.removeprefix(_NORM): found.pop(name) for name in [*found] if name.startswith(_NORM)}
        jump = config["act_fn"] == "jumprelu"
        tensors = named(file, found, {**_NAMES, **({_LOG: "threshold"} if jump else {})})
        if jump:
            norm = tensors["W_dec"].norm(dim=1) if config.get("sparsity_include_decoder_norm", True) else 1.0
            tensors["threshold"] = tensors["threshold"].exp() / norm
        settings: dict[str, Any] = {
            "d_in": config["d_model"],
            "d_sae": len(tensors["W_dec"]),
            "apply_b_dec_to_input": False,
            "rescale_acts_by_decoder_norm": config["act_fn"] == "topk" and config.get("sparsity_include_decoder_norm", True),
        }
        return Foreign(
            architecture=_ARCHITECTURES[config["act_fn"]],
            settings={**settings, "k": config.get("top_k", 50)} if config["act_fn"] == "topk" else settings,
            tensors=_raw(file, config, tensors, norms),
            origin=Origin(hook=config["hook_point_in"]),
            file=file,
        )


def _check(file: Path, config: Mapping[str, Any]) -> None:
    reasons = {
        f"it is a {config['sae_type']}, not an SAE": config["sae_type"] != "sae",
        "it writes another hook than it reads": config["hook_point_in"] != config["hook_point_out"],
        "its encoder is gated by a second one (use_glu_encoder)": config.get("use_glu_encoder", False),
        "it has no decoder bias": not config.get("use_decoder_bias", True),
        f"its activation is {config['act_fn']}": config["act_fn"] not in _ARCHITECTURES,
        "it normalises every token or batch by its own norm": config.get("norm_activation") in {"token-wise", "batch-wise"},
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise Invalid(f"{file}: {' and '.join(found)}. saelab reads SAEs of llamascopium with the activations {', '.join(_ARCHITECTURES)}.")


def _raw(file: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors for raw activations: those of training had a mean norm of √d, unless that is folded in already ("inference")."""
    if config.get("norm_activation", "dataset-wise") == "inference":
        return dict(tensors)
    norm = norms.get(config["hook_point_in"])
    if norm is None or not float(norm) > 0:
        raise Corrupt(f"{file}: {_NORM}{config['hook_point_in']} is missing or not above 0, so the scale of the activations is unknown.")
    scale = math.sqrt(config["d_model"]) / float(norm)
    return {
        **tensors,
        "W_enc": tensors["W_enc"] * scale,
        "W_dec": tensors["W_dec"] / scale,
        "b_dec": tensors["b_dec"] / scale,
    }
