"""Loads what `write_ours.py` wrote with the real libraries, and compares codes and reconstructions. Runs where they are installed.

.interop/bin/python tests/interop/read_ours.py .interop/ours
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from dictionary_learning.utils import load_dictionary
from sae_lens import SAE
from safetensors.torch import load_file
from sparsify import SparseCoder

Said = tuple[torch.Tensor, torch.Tensor]
"""Codes and reconstructions."""


def saelens(folder: Path, x: torch.Tensor) -> Said:
    sae = SAE.load_from_disk(folder)
    return sae.encode(x), sae(x)


def sparsify(folder: Path, x: torch.Tensor) -> Said:
    coder = SparseCoder.load_from_disk(folder)
    values, indices, _ = coder.encode(x)
    return torch.zeros(len(x), coder.num_latents).scatter(1, indices, values), coder(x).sae_out


def dictionary_learning(folder: Path, x: torch.Tensor) -> Said:
    autoencoder, _ = load_dictionary(str(folder), "cpu")
    codes = autoencoder.encode(x)
    return codes, autoencoder.decode(codes)


READERS: dict[str, Callable[[Path, torch.Tensor], Said]] = {
    "saelens": saelens,
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
}


@torch.no_grad()
def main(root: Path) -> int:
    """0 where everything agrees to 1e-5, relative to the largest value where that is above 1."""
    files = sorted(root.rglob("expected.safetensors"))
    assert {file.parent.parent.name for file in files} == set(READERS), "every library reads something"
    apart = 0
    for file in files:
        expected = load_file(file)
        said = READERS[file.parent.parent.name](file.parent, expected["x"])
        errors: dict[str, float] = {}
        for name, found in {"codes": said[0], "reconstruction": said[1]}.items():
            errors[name] = float((expected[name] - found).abs().max() / expected[name].abs().max().clamp(min=1))
        apart += max(errors.values()) > 1e-5
        told = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        sys.stdout.write(f"{file.parent.relative_to(root)}: {told}{'  APART' if max(errors.values()) > 1e-5 else ''}\n")
    return int(apart > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
