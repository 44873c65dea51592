"""Neuronpedia's layout v1, as its importer reads and its public data has it.

    v1/config/explanation_type.jsonl explanation_model_type.jsonl
    v1/<model>/<source>/ release.jsonl model.jsonl sourceset.jsonl source.jsonl        one line each
        features/batch-<n>.jsonl.gz  activations/batch-<n>.jsonl.gz  explanations/batch-<n>.jsonl.gz

A batch holds the rows of 1,024 features. Its importer takes the columns from a file's first line, so every line has the same keys, and
cannot store NUL, which becomes a blank. An activation row is one example: `tokens` and `values` side by side; in the strongest `binMin`
and `binContains` are -1, in the others they give the band of activations that it was drawn from.
"""

import gzip
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, cast

from saelab.errors import Corrupt, NotFound
from saelab.records import Example, ExampleBand, Feature, FeatureId, Label
from saelab.run import whole, write_atomically

OURS = "saelab"
"""The name under which our own labels go out, as the model that explains."""
_BATCH = 1024
_CREATOR = "clkht01d40000jv08hvalcvly"
_EMPTY: dict[str, Any] = {
    "hasVector": False, "vector": [], "vectorLabel": None, "vectorDefaultSteerStrength": None,
    "neuron_alignment_indices": [], "neuron_alignment_values": [], "neuron_alignment_l1": [],
    "correlated_neurons_indices": [], "correlated_neurons_pearson": [], "correlated_neurons_l1": [],
    "correlated_features_indices": [], "correlated_features_pearson": [], "correlated_features_l1": [],
    "logits_hist_data_bar_heights": [], "logits_hist_data_bar_values": [], "decoder_weights_dist": [],
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class About:
    """What the folder says of a dictionary as a whole."""

    model: str
    """Id of the subject."""
    source: str
    """Name of the dictionary, such as `14-res-topk`."""
    hook: str | None
    """Where it reads."""
    num_tokens: int | None
    """Tokens that the statistics were made from; none where the files do not say."""


def is_neuronpedia(folder: Path) -> bool:
    """Whether a folder holds one source in this layout."""
    return (folder / "features").is_dir() and any((folder / "features").glob("batch-*.jsonl*"))


_NEEDED = {
    "features": (
        *("modelId", "layer", "maxActApprox", "frac_nonzero", "freq_hist_data_bar_heights", "freq_hist_data_bar_values"),
        *("pos_str", "pos_values", "neg_str", "neg_values"),
    ),
    "activations": ("tokens", "values"),
    "explanations": ("description",),
}


def rows(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The rows of all batches of `features`, `activations` or `explanations`, in order.

    Raises `Corrupt` naming file and line of what is no such row.
    """
    for file in sorted((folder / kind).glob("batch-*.jsonl*"), key=lambda item: (len(item.name), item.name)):
        try:
            lines = (gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()).splitlines()
        except (OSError, EOFError) as error:
            raise Corrupt(f"{file} cannot be read: {error}. Copy the whole folder again.") from None
        for number, line in enumerate(lines, start=1):
            yield _row(line, kind, f"{file}, line {number}")


def _row(line: bytes, kind: str, where: str) -> dict[str, Any]:
    try:
        found = cast("dict[str, Any]", json.loads(line))
        missing = [name for name in _NEEDED[kind] if name not in found]
        known = str(found["index"]).isdigit()
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"{where} is no row of a feature ({error!r}). Copy the whole folder again.") from None
    if missing or not known:
        raise Corrupt(f"{where} is no row of {kind}: it lacks {', '.join(missing) or 'an index'}. Was another file put in its place?")
    return found


def read_about(folder: Path) -> About:
    """What the folder says of the dictionary. Raises `NotFound` where it holds no features."""
    first = next(rows(folder, "features"), None)
    if first is None:
        raise NotFound(f"{folder} holds no features. Give the folder <model>/<source> of Neuronpedia's layout v1.")
    file = folder / "source.jsonl"
    said = json.loads(file.read_text("utf-8").splitlines()[0]) if file.is_file() else {}
    prompts, length = said.get("num_prompts"), said.get("num_tokens_in_prompt")
    return About(
        model=str(first["modelId"]),
        source=str(first["layer"]),
        hook=first.get("hookName"),
        num_tokens=int(prompts) * int(length) if prompts and length else None,
    )


def label_of(row: Mapping[str, Any]) -> Label:
    """The label of a row of `explanations`, by its author: our own under their labeller's name, others as `neuronpedia:<model>`."""
    kind, model, author = (str(row.get(name) or "") for name in ("typeName", "explanationModelName", "authorId"))
    text = str(row.get("description") or "")
    return Label(
        text=text,
        input_clause=text,
        labeller=kind if model == OURS else f"neuronpedia:{model or kind or author}",
        made_by=json.dumps({"project": "neuronpedia", "typeName": kind, "explanationModelName": model, "authorId": author}),
    )


def write_source(folder: Path, about: About, features: Iterable[Feature], labels: Mapping[int, tuple[Label, ...]], when: str) -> None:
    """Writes a dictionary's features, examples and labels.

    Arguments:
    - `folder`: the folder `v1`; it is made.
    - `features`: in order; what their pages show is what is written.
    - `labels`: every label by feature; those that say that no rule was found are left out.
    - `when`: when the features were collected, ISO 8601.

    Raises `Conflict` if the folder cannot be written.
    """
    place = folder / about.model / about.source
    authors: set[tuple[str, str]] = set()
    num, rest = 0, iter(features)
    for number, batch in enumerate(iter(lambda: list(islice(rest, _BATCH)), [])):
        num += len(batch)
        _write(place / "features" / f"batch-{number}.jsonl.gz", (_feature_row(item, about, when) for item in batch))
        _write(place / "activations" / f"batch-{number}.jsonl.gz", (row for item in batch for row in _activation_rows(item, when)))
        explained = [(item.id, label) for item in batch for label in labels.get(item.id.index, ()) if label.found]
        authors |= {_author(label)[:2] for _, label in explained}
        if explained:
            _write(place / "explanations" / f"batch-{number}.jsonl.gz", (_explanation_row(*item) for item in explained))
    _write_config(folder, about, authors, num)


def _write(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with whole(file) as half, gzip.open(half, "wb", compresslevel=6) as out:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False).replace("\\u0000", " ").encode() + b"\n")


def _id(*parts: object) -> str:
    """An id of the form that their database has, the same for the same row."""
    return "c" + blake2b("/".join(map(str, parts)).encode(), digest_size=12).hexdigest()


def _key(item: FeatureId) -> dict[str, Any]:
    return {"modelId": item.model, "layer": item.source, "index": str(item.index)}


def _feature_row(item: Feature, about: About, when: str) -> dict[str, Any]:
    edges = item.histogram.edges
    return {
        **_key(item.id),
        "sourceSetName": _set_name(item.id.source),
        "creatorId": _CREATOR,
        "createdAt": when,
        "maxActApprox": item.max,
        **_EMPTY,
        "hookName": about.hook,
        "topkCosSimIndices": [other.index for other in item.neighbours],
        "topkCosSimValues": [other.similarity for other in item.neighbours],
        "neg_str": [token.token for token in item.bottom_logits],
        "neg_values": [token.value for token in item.bottom_logits],
        "pos_str": [token.token for token in item.top_logits],
        "pos_values": [token.value for token in item.top_logits],
        "frac_nonzero": item.density.value,
        "freq_hist_data_bar_heights": list(item.histogram.counts),
        "freq_hist_data_bar_values": [math.sqrt(low * high) for low, high in pairwise(edges)],
    }


def _activation_rows(item: Feature, when: str) -> Iterator[dict[str, Any]]:
    for band in item.bands:
        for number, example in enumerate(band.examples):
            yield {"id": _id(item.id, band.name, number), **_key(item.id), "createdAt": when, **_example(example, band)}


def _example(example: Example, band: ExampleBand) -> dict[str, Any]:
    strongest = max(range(len(example.values)), key=lambda place: example.values[place])
    whole_range = band.name in ("top", "bottom")
    return {
        "creatorId": _CREATOR,
        "dataIndex": f"{example.document}:{example.position}",
        "dataSource": example.domain,
        "tokens": list(example.tokens),
        "values": list(example.values),
        "maxValue": example.values[strongest],
        "maxValueTokenIndex": strongest,
        "minValue": min(example.values),
        "binMin": -1 if whole_range else band.low,
        "binMax": -1 if whole_range else band.high,
        "binContains": -1 if whole_range else band.share,
        "qualifyingTokenIndex": None if whole_range else example.peak,
        **{"dfaValues": [], "dfaMaxValue": None, "dfaTargetIndex": None, "lossValues": [], "logitContributions": None},
    }


def _author(label: Label) -> tuple[str, str, str]:
    """Type, model and author of a label: what it came with, or ours."""
    made_by: dict[str, Any] = json.loads(label.made_by) if label.made_by.startswith("{") else {}
    if made_by.get("project") == "neuronpedia":
        return made_by["typeName"], made_by["explanationModelName"], made_by["authorId"]
    return label.labeller, OURS, _CREATOR


def _explanation_row(item: FeatureId, label: Label) -> dict[str, Any]:
    kind, model, author = _author(label)
    said = {"authorId": author, "description": label.text, "embedding": None, "typeName": kind, "explanationModelName": model}
    umap = dict.fromkeys(("umap_x", "umap_y", "umap_cluster", "umap_log_feature_sparsity"))
    return {"id": _id(item, label.labeller), **_key(item), **said, **umap}


def _set_name(source: str) -> str:
    return source.partition("-")[2] or source


def _write_config(folder: Path, about: About, authors: set[tuple[str, str]], num: int) -> None:
    place, name = folder / about.model / about.source, _set_name(about.source)
    layer = about.source.partition("-")[0]
    layers = int(layer) + 1 if layer.isdigit() else 1
    model = {
        **{"id": about.model, "displayName": about.model, "displayNameShort": about.model, "layers": layers, "neuronsPerLayer": num},
        **{"dimension": None, "instruct": False, "owner": OURS, "visibility": "PRIVATE", "inferenceEnabled": False, "creatorId": _CREATOR},
    }
    release = {"name": OURS, "description": OURS, "descriptionShort": OURS, "urls": [], "creatorName": OURS, "creatorId": _CREATOR}
    sourceset = {
        **{"modelId": about.model, "name": name, "description": name, "type": name, "creatorName": OURS, "releaseName": OURS},
        **{"defaultRange": 1, "defaultShowBreaks": True, "showDfa": False, "showCorrelated": False, "showHeadAttribution": False},
        **{"showUmap": False, "visibility": "PRIVATE", "creatorId": _CREATOR},
    }
    source = {
        **{"id": about.source, "modelId": about.model, "setName": name, "hasDashboards": True, "inferenceEnabled": False},
        **{"saelensConfig": None, "saelensRelease": None, "saelensSaeId": None, "hfRepoId": None, "hfFolderId": None},
        **{"visibility": "PRIVATE", "num_prompts": about.num_tokens, "num_tokens_in_prompt": 1, "dataset": None, "notes": None},
        "creatorId": _CREATOR,
    }
    for file, line in {"release": release, "model": model, "sourceset": sourceset, "source": source}.items():
        write_atomically(place / f"{file}.jsonl", json.dumps(line) + "\n")
    for file, names in {"explanation_type": {kind for kind, _ in authors}, "explanation_model_type": {name for _, name in authors}}.items():
        lines = [json.dumps({"name": item, "displayName": item, "creatorId": _CREATOR}) + "\n" for item in sorted(names)]
        write_atomically(folder / "config" / f"{file}.jsonl", "".join(lines))
