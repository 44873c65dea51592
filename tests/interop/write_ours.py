"""Writes every registered dictionary in every format that has a place for it, with its own codes and reconstructions beside it.

python tests/interop/write_ours.py .interop/ours
"""

import sys
from pathlib import Path

from safetensors.torch import save_file

from saelab.dictionary import DICTIONARIES
from saelab.errors import Invalid
from saelab.interop.base import FORMATS, write_foreign
from saelab.testing import planted, small


def main(root: Path) -> None:
    """A folder for each pair; a pair that is refused is named with the reason."""
    for name in DICTIONARIES:
        dictionary = small(DICTIONARIES[name]).requires_grad_(False)
        x = planted(16, seed=3)[0]
        codes = dictionary.encode(x)
        expected = {"x": x, "codes": codes.dense(), "reconstruction": dictionary.decode(codes)}
        for form in (form for form in FORMATS if "write" in vars(FORMATS[form])):
            try:
                write_foreign(dictionary, root / form / name, form)
            except Invalid as refused:
                sys.stdout.write(f"{form}/{name}: refused: {refused}\n")
            else:
                save_file({key: tensor.contiguous() for key, tensor in expected.items()}, root / form / name / "expected.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
