"""sparsify (EleutherAI): `cfg.json` and `sae.safetensors` in a folder named after a module; the run's `config.json` one folder up.

    z = TopK(relu((x - b_dec) encoderᵀ + bias))        x̂ = z W_dec + b_dec (+ x W_skipᵀ)

`encoder.weight` and `W_dec` both have a row a feature. A transcoder does not subtract `b_dec`. `num_latents` 0 stands for
`d_in · expansion_factor`.
"""

import json
import re
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import save_file

from saelab.dictionary import CONFIG_FILE, Dictionary
from saelab.errors import Invalid
from saelab.interop.base import FORMATS, Foreign, Format, Origin, named, read_json
from saelab.run import whole, write_atomically
from saelab.tensors import read_tensors

_WEIGHTS = "sae.safetensors"
_NAMES = {"encoder.weight": "W_enc.T", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_LAYOUTS = {"topk": (False, False), "topk_transcoder": (True, False), "topk_skip_transcoder": (True, True)}
_PLACES = {
    None: "hook_resid_post",
    "mlp": "hook_mlp_out",
    "attn": "hook_attn_out",
    "self_attn": "hook_attn_out",
    "attention": "hook_attn_out",
}
_READ = {"hook_resid_post": "hook_resid_pre", "hook_mlp_out": "mlp.hook_in"}
"""What goes into the module whose output each is; the input of attention behind its norm has no name here."""


@FORMATS.register("sparsify")
class Sparsify(Format):
    """Read and written."""

    files: ClassVar[str] = f"{CONFIG_FILE} and {_WEIGHTS}"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A folder with both files."""
        return (path / CONFIG_FILE).is_file() and (path / _WEIGHTS).is_file()

    @classmethod
    def read(cls, path: Path) -> Foreign:
        """What the folder holds. Raises `Invalid` for GroupMax and signed codes, which saelab has no counterpart for."""
        config = read_json(path / CONFIG_FILE, {"d_in": int, "k": int})
        if config.get("activation", "topk") != "topk" or config.get("signed", False):
            said = "signed TopK" if config.get("signed", False) else config["activation"]
            raise Invalid(f"{path / CONFIG_FILE}: the activation is {said}; saelab reads TopK alone from sparsify.")
        transcoder, skip = bool(config.get("transcode", False)), bool(config.get("skip_connection", False))
        tensors = named(path / _WEIGHTS, read_tensors(path / _WEIGHTS), {**_NAMES, **({"W_skip": "W_skip"} if skip else {})})
        settings: dict[str, Any] = {
            "d_in": config["d_in"],
            "d_sae": config.get("num_latents") or config["d_in"] * config["expansion_factor"],
            "k": config["k"],
            "apply_b_dec_to_input": not transcoder,
        }
        return Foreign(
            architecture="transcoder" if transcoder or skip else "topk",
            settings=settings,
            tensors=tensors,
            origin=_origin(path, transcoder),
            file=path / _WEIGHTS,
        )

    @classmethod
    def write(cls, dictionary: Dictionary, folder: Path) -> None:
        """Writes a TopK dictionary or transcoder. Raises `Invalid` for any other, `Conflict` if the folder cannot be written."""
        if dictionary.layout not in _LAYOUTS or dictionary.d_out != dictionary.d_in:
            raise Invalid(
                f"The format sparsify cannot hold a dictionary of the architecture {dictionary.architecture} with {dictionary.d_in} values "
                f"read and {dictionary.d_out} written. It holds {', '.join(_LAYOUTS)}, with as many values read as written."
            )
        transcoder, skip = _LAYOUTS[dictionary.layout]
        tensors = {name: tensor.detach().float().cpu() for name, tensor in dictionary.tensors().items()}
        ours = {"encoder.weight": tensors.pop("W_enc").T, "encoder.bias": tensors.pop("b_enc"), **tensors}
        with whole(folder / _WEIGHTS) as half:
            save_file({name: tensor.contiguous() for name, tensor in ours.items()}, half)
        config = {
            "activation": "topk",
            "expansion_factor": max(1, dictionary.d_sae // dictionary.d_in),
            "normalize_decoder": True,
            "num_latents": dictionary.d_sae,
            "k": dictionary.settings()["k"],
            "multi_topk": False,
            "skip_connection": skip,
            "transcode": transcoder,
            "d_in": dictionary.d_in,
        }
        write_atomically(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def _origin(path: Path, transcoder: bool) -> Origin:
    """The model of the run's config, and the hook that the folder's name stands for: `layers.5.mlp`.

    A transcoder reads what goes into that module, and writes what comes out of it.
    """
    run = path.resolve().parent / "config.json"
    model = read_json(run).get("model") if run.is_file() else None
    found = re.search(r"(?:layers|h)\.(\d+)(?:\.(\w+))?$", path.resolve().name)
    place = _PLACES.get(found[2]) if found else None
    out = f"blocks.{found[1]}.{place}" if found and place else None
    if not transcoder:
        return Origin(model=model, hook=out)
    read = _READ.get(place) if place else None
    return Origin(model=model, hook=f"blocks.{found[1]}.{read}" if found and read else None, target_hook=out)
