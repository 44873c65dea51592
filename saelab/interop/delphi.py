"""delphi (EleutherAI): `latents/<module>/<first>_<last>.safetensors` and `config.json`; `explanations/<module>_latent<i>.txt`;
`scores/<scorer>/<module>_latent<i>.txt`.

A latents file holds, for the latents `first` to `last`: `locations` [active, 3] (sequence, position, latent - first; uint16 or uint32),
`activations` [active] (float16) and `tokens` [sequence, position], the same in every file. An explanation is a JSON string, a score a JSON
list with a row for each window that was judged.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from saelab.errors import Corrupt, Invalid, NotFound
from saelab.interop.base import read_json
from saelab.interop.firings import Firings
from saelab.records import Label, Score
from saelab.run import whole, write_atomically

NAME = "delphi"
_SPLITS = 5


def is_delphi(folder: Path) -> bool:
    """Whether a folder is laid out like delphi's."""
    return any((folder / name).is_dir() for name in ("latents", "explanations"))


def module_of(folder: Path, module: str | None) -> str:
    """The module whose latents are meant: the one named, or the only one. Raises `NotFound` with what there is."""
    known = sorted(item.name for item in (folder / "latents").glob("*") if item.is_dir())
    known = known or sorted({file.stem.rpartition("_latent")[0] for file in (folder / "explanations").glob("*.txt")})
    if module is None and len(known) == 1:
        return known[0]
    if module not in known:
        named = "Name" if module is None else f"There is no {module}; name"
        raise NotFound(f"{folder} holds latents of {', '.join(known) or 'no module'}. {named} one of them with --hook.")
    return module


def read_config(folder: Path, module: str) -> dict[str, Any]:
    """What the latents were made from: model, data, context. Raises `Corrupt` for a file that cannot be read."""
    return read_json(folder / "latents" / module / "config.json")


def read_latents(folder: Path, module: str) -> Firings:
    """The activations of every latent of a module.

    Raises `NotFound` where there are none, `Corrupt` naming a file that is torn, `Invalid` where the tokens were not saved with them.
    """
    files = sorted((folder / "latents" / module).glob("*_*.safetensors"), key=lambda file: int(file.stem.partition("_")[0]))
    if not files:
        raise NotFound(f"There are no latents in {folder / 'latents' / module}. Give the folder that delphi wrote.")
    parts = [_read_split(file) for file in files]
    tokens = next((part["tokens"] for part in parts if "tokens" in part), None)
    if tokens is None:
        raise Invalid(f"{files[0].parent} holds no tokens. Run delphi again with save_tokens, which is its default.")
    firsts = [int(file.stem.partition("_")[0]) for file in files]
    latents = [part["locations"][:, 2].astype(np.int64) + first for part, first in zip(parts, firsts, strict=True)]
    places = np.concatenate([part["locations"][:, :2] for part in parts]).astype(np.int64)
    return Firings(
        sequences=tuple(tokens.astype(np.int32)),
        sequence=places[:, 0],
        position=places[:, 1],
        feature=np.concatenate(latents),
        value=np.concatenate([part["activations"] for part in parts]).astype(np.float32),
    )


def _read_split(file: Path) -> dict[str, np.ndarray]:
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise Corrupt(f"{file} cannot be read: {error}. Copy the whole folder again.") from None
    locations, activations = found.get("locations"), found.get("activations")
    if locations is None or activations is None or locations.shape != (len(activations), 3):
        raise Corrupt(f"{file} does not hold locations [active, 3] and activations [active]. Was another file put in its place?")
    return found


def width_of(folder: Path, module: str) -> int:
    """How many latents the files speak of."""
    ends = [int(file.stem.partition("_")[2]) for file in (folder / "latents" / module).glob("*_*.safetensors")]
    return max(ends, default=-1) + 1


def read_labels(folder: Path, module: str) -> Iterator[tuple[int, Label]]:
    """The explanations by latent, each with its scores: balanced accuracy over the judged windows, failed answers counted as wrong.

    Raises `Corrupt` naming a file that cannot be read.
    """
    author = "delphi"
    run = folder / "run_config.json"
    if run.is_file():
        author = f"delphi:{read_json(run).get('explainer_model', '')}".rstrip(":")
    for file in sorted((folder / "explanations").glob(f"{module}_latent*.txt")):
        text = _json(file)
        if not isinstance(text, str):
            raise Corrupt(f"{file} holds no explanation, which is a JSON string. Was another file put in its place?")
        index = int(file.stem.rpartition("_latent")[2])
        made_by = json.dumps({"project": NAME, "author": author})
        yield index, Label(text=text, input_clause=text, labeller=author, made_by=made_by, scores=tuple(_scores(folder, module, index)))


def _scores(folder: Path, module: str, index: int) -> Iterator[Score]:
    for scorer in sorted((folder / "scores").glob("*")):
        file = scorer / f"{module.replace('/', '--')}_latent{index}.txt"
        if file.is_file():
            yield _score(f"delphi_{scorer.name}", _json(file), file)


def _score(name: str, rows: Any, file: Path) -> Score:  # noqa: ANN401 - JSON of another project
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "activating" in row for row in rows):
        raise Corrupt(f"{file} holds no list of judged windows. Scores of simulation are not read; leave them out of the folder.")
    right = {kind: [row.get("correct") is True for row in rows if row["activating"] is kind] for kind in (True, False)}
    if not right[True] or not right[False]:
        return Score(scorer=name, metric="balanced_accuracy", value=None, n=len(rows), failed="only windows of one kind were judged")
    value = (np.mean(right[True]) + np.mean(right[False])) / 2
    return Score(scorer=name, metric="balanced_accuracy", value=float(value), n=len(rows), null=0.5, lift=float(value) - 0.5)


def _json(file: Path) -> Any:  # noqa: ANN401 - JSON of another project
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise Corrupt(f"{file} is not readable as JSON: {error}. Copy the whole folder again.") from None


def write_latents(folder: Path, module: str, firings: Firings, d_sae: int, model: str, pad: int = 0) -> None:
    """Writes activations as delphi caches them, in five files. Sequences that are shorter than the longest are padded at their end.

    Raises `Conflict` if the folder cannot be written.
    """
    context = max(len(sequence) for sequence in firings.sequences)
    tokens = np.full((len(firings.sequences), context), pad, np.int64)
    for row, sequence in enumerate(firings.sequences):
        tokens[row, : len(sequence)] = sequence
    edges = np.linspace(0, d_sae, min(_SPLITS, d_sae) + 1).astype(np.int64)
    for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        own = (firings.feature >= first) & (firings.feature < end)
        locations = np.stack([firings.sequence[own], firings.position[own], firings.feature[own] - first], 1)
        small = len(tokens) < 2**16 and end - first < 2**16
        arrays = {
            "locations": locations.astype(np.uint16 if small else np.uint32),
            "activations": firings.value[own].astype(np.float16),
            "tokens": tokens,
        }
        with whole(folder / "latents" / module / f"{first}_{end - 1}.safetensors") as half:
            save_file(arrays, half)
    config = {"dataset_repo": "", "dataset_split": "", "dataset_name": "", "dataset_column": "text", "batch_size": 1}
    facts = {**config, "cache_ctx_len": context, "ctx_len": context, "n_tokens": int(tokens.size), "n_splits": _SPLITS, "model_name": model}
    write_atomically(folder / "latents" / module / "config.json", json.dumps(facts, indent=4))


def write_explanations(folder: Path, module: str, texts: Mapping[int, str]) -> None:
    """Writes labels as delphi's explanations. Raises `Conflict` if the folder cannot be written."""
    for index, text in texts.items():
        write_atomically(folder / "explanations" / f"{module}_latent{index}.txt", json.dumps(text, ensure_ascii=False))
