"""Gemma Scope: one `params.npz`, a JumpReLU SAE whose decoder bias is not subtracted from the input.

Lieberum et al. 2024, https://arxiv.org/abs/2408.05147. The file says nothing of model or hook; both stand in the repository's name and in
the path.
"""

import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from saelab.errors import Corrupt
from saelab.interop.base import FORMATS, Foreign, Format, Origin, named

_NAMES = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "threshold": "threshold"}


@FORMATS.register("gemma_scope")
class GemmaScope(Format):
    """Read only."""

    files: ClassVar[str] = "params.npz"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A file that ends in .npz, or a folder with params.npz."""
        return path.suffix == ".npz" or (path / "params.npz").is_file()

    @classmethod
    def read(cls, path: Path) -> Foreign:
        """What the file holds. Raises `Corrupt` if it is no archive of the five arrays."""
        file = path / "params.npz" if path.is_dir() else path
        try:
            with np.load(file, allow_pickle=False) as arrays:
                tensors = named(file, {name: torch.from_numpy(arrays[name]) for name in arrays.files}, _NAMES)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise Corrupt(f"{file} is not an archive of plain arrays: {error}. Download it again.") from None
        d_in, d_sae = tensors["W_enc"].shape
        settings = {"d_in": d_in, "d_sae": d_sae, "apply_b_dec_to_input": False}
        return Foreign(architecture="jumprelu", settings=settings, tensors=tensors, origin=Origin(prepend_bos=True), file=file)
