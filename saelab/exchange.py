"""Dictionaries that come into a run from other libraries, and go out to them."""

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from tyro.conf import OmitArgPrefixes, Positional

from saelab import stages
from saelab.activations.disk import DiskStore
from saelab.activations.vectors import VECTORS
from saelab.console import OUT
from saelab.corpus import Corpus
from saelab.dictionary import Dictionary, save_dictionary
from saelab.errors import Conflict, Invalid
from saelab.feeds import provenance_of
from saelab.foreign import FORMATS, export_features, format_of, import_features
from saelab.interop.base import Foreign, Origin, find_foreign, write_foreign
from saelab.interop.hub import download
from saelab.lab import Lab, run_subject, stored
from saelab.run import Run, open_run
from saelab.values import to_dict, value


@value
class ImportConfig:
    """Where a foreign dictionary lies, and what its files do not say or say otherwise."""

    source: str
    """The name that it gets in the run, such as `20-res-gemma`."""
    repo: str | None = None
    """A repository of the Hugging Face hub; the path is then one in it. None for a path on this machine."""
    revision: str | None = None
    """Branch, tag or commit of the repository; none for the newest."""
    hook: str | None = None
    """Where the dictionary reads, in TransformerLens names; none for what its files say."""
    target_hook: str | None = None
    """Where a transcoder writes; none for what its files say."""
    model: str | None = None
    """The run's model, where the dictionary's files call it otherwise or name the model that it was tuned from."""
    prepend_bos: bool | None = None
    """Whether it was trained on windows that begin with the beginning-of-sequence token; none for what its files say."""


def import_dictionary(run: Run, path: Path, config: ImportConfig) -> None:
    """A dictionary of another library in `dictionaries/<source>/`, as if it had been trained there; its hooks are captured if need be.

    One that saelab saved keeps what is known of its activations: the model that it was trained on, its windows, its limits.

    Raises `Invalid` where its files do not say the hooks or it does not fit the run's activations, `Conflict` where it was made for another
    model or other windows, and what `find_foreign` raises.
    """
    folder = stages.source_folder(run, config.source)
    described = {**to_dict(config), "path": str(path)}
    if folder.done("train", described):
        return
    began = time.monotonic()
    foreign = find_foreign(download(config.repo, str(path), config.revision) if config.repo else path)
    if foreign.origin.hook == VECTORS:
        foreign = replace(foreign, origin=Origin())  # the rows of a file were not this subject's activations, nor any other's
    dictionary, known = foreign.dictionary(), foreign.origin.provenance
    hook, target = _hook(run, foreign, config), _target(foreign, config, dictionary)
    beside, pooled = (known.beside, known.pooled) if known else ((), False)
    hooks = (hook, *([target] if target else []), *beside)
    for name, width in zip(hooks, _widths(dictionary, len(hooks)), strict=True):
        _check_width(run, name, width, "writes" if name == target else "reads")
    stages.capture_hooks(run, hooks)
    model = run.need("read").facts["model"]
    here = provenance_of(model, stored(run, hooks, pooled), hook, target, beside, pooled)
    dictionary.locate(here if known is None else replace(known, hook=hook, target_hook=target))
    save_dictionary(dictionary, folder.path)
    facts = {
        "architecture": dictionary.architecture,
        "model": model,
        "hook": hook,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.d_sae,
        "imported": str(foreign.file),
    }
    folder.finish("train", described, facts, began)


def export_dictionary(run: Run, source: str | None, folder: Path, format: str) -> None:
    """A run's dictionary in the format of another library.

    Raises `Conflict` for a folder that holds something already or cannot be written, `Invalid` for what the format cannot hold.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} holds something already. Give a new folder: files of two dictionaries in one could be taken for one.")
    write_foreign(Lab(run, source).dictionary, folder, format)


def _hook(run: Run, foreign: Foreign, config: ImportConfig) -> str:
    """Where the dictionary reads, when model and windows are those that it was made for."""
    facts, said = run.need("read").facts, foreign.origin
    hook = config.hook or said.hook
    if hook is None:
        raise Invalid(f"{foreign.file.parent} does not say where the dictionary reads. Name the hook: --hook blocks.14.hook_resid_post")
    model, files = config.model or said.model, foreign.file.parent
    if model is not None and _plain(model) != _plain(facts["model"]):
        raise Conflict(
            f"{files} was made for the model {model}; {run.path} has read its corpus with {facts['model']}. If that is the same model by "
            f"another name, or one tuned from it, say so: --model {facts['model']}"
        )
    begins = said.prepend_bos if config.prepend_bos is None else config.prepend_bos
    read = Corpus.open(run.corpus).policy.prepend_bos
    if begins is not None and begins != read:
        raise Conflict(
            f"{files} was trained on windows {'with' if begins else 'without'} the beginning-of-sequence token; those of {run.path} are "
            f"{'with' if read else 'without'} it. Read the corpus into another run with --prepend-bos {begins}, or, if what the files say "
            f"is wrong, import with --prepend-bos {read}."
        )
    return hook


def _target(foreign: Foreign, config: ImportConfig, dictionary: Dictionary) -> str | None:
    """Where a transcoder writes; none for any other dictionary."""
    if dictionary.places != "target":
        if config.target_hook is not None:
            raise Invalid(f"{foreign.file.parent} holds a {dictionary.architecture}, which writes where it reads: leave --target-hook out.")
        return None
    target = config.target_hook or foreign.origin.target_hook
    if target is None:
        raise Invalid(f"{foreign.file.parent} does not say where the transcoder writes. Name it: --target-hook blocks.14.hook_mlp_out")
    return target


def _widths(dictionary: Dictionary, num_hooks: int) -> tuple[int, ...]:
    """Width of the activations of each hook."""
    if dictionary.places == "target":
        return dictionary.d_in, dictionary.d_out
    return dictionary.widths * (num_hooks // len(dictionary.widths))  # pooled hooks are alike


def _plain(model: str) -> str:
    """A model's name without owner, case and punctuation."""
    return re.sub(r"[^a-z0-9]", "", model.rsplit("/", 1)[-1].lower())


@torch.inference_mode()
def _check_width(run: Run, hook: str, wanted: int, does: Literal["reads", "writes"]) -> None:
    done = run.manifest("capture")
    if done and hook in done.facts["hooks"]:
        width = DiskStore(run.activations(hook)).d_in
    else:
        width = run_subject(run).activations(torch.tensor([[0]]), [hook])[hook].shape[-1]
    if width != wanted:
        raise Invalid(
            f"The dictionary {does} activations of width {wanted}; those of {hook} in {run.path} have width {width}. Name the hook that it "
            "was trained on with --hook (--target-hook), or read the corpus with its model."
        )


@value
class Import:
    """Takes a dictionary of another library into a run, or features and labels of Neuronpedia or delphi."""

    path: Positional[Path]
    """Folder or file of the dictionary, or folder of the features; with --repo, the path in the repository."""
    run: Positional[Path]
    """The run's folder; its corpus has been read."""
    config: OmitArgPrefixes[ImportConfig]
    """What it is called, and what its files do not say."""

    def __call__(self) -> None:
        """Does it."""
        run = open_run(self.run)
        if self.config.repo is None and format_of(self.path):
            import_features(run, self.path, self.config.source, self.config.hook)
        else:
            import_dictionary(run, self.path, self.config)
        OUT.print(f"{run.source(self.config.source).path}")


@value
class Export:
    """Writes a dictionary of a run for another library, or its features for Neuronpedia or delphi."""

    run: Positional[Path]
    """The run's folder."""
    folder: Positional[Path]
    """Where it is written: a new folder."""
    format: Literal["saelens", "sparsify", "dictionary_learning", "neuronpedia", "delphi"] = "saelens"
    """Who shall read it."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""

    def __call__(self) -> None:
        """Does it."""
        export = export_features if self.format in FORMATS else export_dictionary
        export(open_run(self.run), self.source, self.folder, self.format)
        OUT.print(f"{self.folder}")
