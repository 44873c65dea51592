"""Features that other projects collected and labelled, into a run, and a run's features out to them: Neuronpedia, delphi."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saelab.errors import Conflict, Invalid
from saelab.features.collect import CollectConfig
from saelab.features.database import store_place
from saelab.features.gathered import gather
from saelab.features.geometry import NOBODY, LogitLens, Neighbours
from saelab.features.statistics import NUM_BINS, Statistics
from saelab.features.store import FeatureStore
from saelab.features.tally import bins
from saelab.features.write import Geometry, write_features
from saelab.interop import delphi, neuronpedia
from saelab.interop.firings import Firings
from saelab.lab import Lab, run_subject
from saelab.progress import track
from saelab.records import Label
from saelab.run import Run, Stages

FORMATS = ("neuronpedia", "delphi")
"""The formats of features, by name."""


def format_of(path: Path) -> str | None:
    """Which project's features lie in a folder; none where it holds no features."""
    if neuronpedia.is_neuronpedia(path):
        return "neuronpedia"
    return "delphi" if delphi.is_delphi(path) else None


def import_features(run: Run, path: Path, source: str, hook: str | None = None) -> None:
    """Features of Neuronpedia or delphi in a run. Where `source` has been collected, their labels join its own; else all of it is made.

    Arguments:
    - `path`: the folder `<model>/<source>` of Neuronpedia's layout, or the one that delphi wrote.
    - `source`: the dictionary in the run.
    - `hook`: the module whose latents are read, where a delphi folder has several.

    Raises `Conflict` where the features are those of another dictionary, and what the readers raise.
    """
    folder = run.source(source)
    kind = format_of(path)
    if kind is None:
        raise Invalid(f"{path} holds no features. Expected features/batch-0.jsonl.gz (Neuronpedia), or latents and explanations (delphi).")
    module = delphi.module_of(path, hook) if kind == "delphi" else ""
    if folder.manifest("collect") is None:
        if folder.manifest("train") is not None:
            raise Conflict(
                f"{folder.path} was trained but its features were not collected. Run `saelab collect` first, then import the labels."
            )
        _make_neuronpedia(folder, path) if kind == "neuronpedia" else _make_delphi(run, folder, path, module)
    began = time.monotonic()
    store = FeatureStore(store_place(folder.path))
    last = _put_labels(store, _labels(path, module), path)
    if last is not None:
        facts = {"num_labelled": store.num_labelled(), "labeller": last.labeller}
        folder.finish_part("label", f"imported from {kind}", {"path": str(path)}, facts, began)
    store.close()


def _labels(path: Path, module: str) -> Iterable[tuple[int, Label]]:
    if module:
        return delphi.read_labels(path, module)
    return ((int(row["index"]), neuronpedia.label_of(row)) for row in neuronpedia.rows(path, "explanations"))


def _put_labels(store: FeatureStore, labels: Iterable[tuple[int, Label]], path: Path) -> Label | None:
    """Keeps the labels; gives the last one."""
    label: Label | None = None
    for index, label in track(labels, stage="labels", total=0, unit="labels"):
        if index >= store.d_sae:
            raise Conflict(f"{path} has a label of feature {index}, but {store.facts['source']} has {store.d_sae}: they differ in size.")
        store.put_label(index, label)
    return label


def _finish(folder: Stages, model: str, hook: str, d_sae: int, num_tokens: int, path: Path, began: float) -> None:
    """The manifests of a dictionary that is known by its features alone."""
    facts = {"architecture": "features only", "model": model, "hook": hook, "d_in": 0, "d_sae": d_sae, "imported": str(path)}
    folder.finish("train", {"path": str(path)}, facts, began)
    folder.finish("collect", {"path": str(path)}, {"num_tokens": num_tokens, "num_features": d_sae, "model": model}, began)


def _make_delphi(run: Run, folder: Stages, path: Path, module: str) -> None:
    began, firings = time.monotonic(), delphi.read_latents(path, module)
    d_sae, subject = delphi.width_of(path, module), run_subject(run)
    largest = max(int(sequence.max(initial=0)) for sequence in firings.sequences)
    if largest >= len(subject.vocabulary):
        raise Conflict(
            f"{path} has token {largest}, but {subject.name} has {len(subject.vocabulary)}: it was made with "
            f"{delphi.read_config(path, module).get('model_name')}. Read the run's corpus with that model."
        )
    collected = gather(firings, d_sae, CollectConfig(), "delphi")
    write_features(folder.path / "features.db", subject.name, folder.path.name, collected, subject.vocabulary)
    _finish(folder, subject.name, module, d_sae, collected.statistics.num_tokens, path, began)


def _make_neuronpedia(folder: Stages, path: Path) -> None:
    began, about = time.monotonic(), neuronpedia.read_about(path)
    features = list(neuronpedia.rows(path, "features"))
    d_sae = max(int(row["index"]) for row in features) + 1
    firings, strings = _firings(neuronpedia.rows(path, "activations"), features)
    length = max(len(sequence) for sequence in firings.sequences)
    collected = gather(firings, d_sae, CollectConfig(width=length, before=0), "neuronpedia")
    collected = replace(collected, statistics=_stated(collected.statistics, features, about.num_tokens))
    write_features(
        folder.path / "features.db", about.model, folder.path.name, collected, tuple(strings), _geometry(features, strings, d_sae)
    )
    _finish(folder, about.model, about.hook or "", d_sae, collected.statistics.num_tokens, path, began)


def _firings(activations: Iterator[dict[str, Any]], features: list[dict[str, Any]]) -> tuple[Firings, dict[str, int]]:
    """The examples as sequences with activations, and the tokens that occur in them or in the logits, numbered."""
    strings: dict[str, int] = {}
    texts: dict[tuple[str, ...], int] = {}
    places: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for row in track(activations, stage="examples", total=0, unit="examples"):
        tokens = tuple(row["tokens"])
        number = texts.setdefault(tokens, len(texts))
        value = np.array(row["values"], np.float32)
        position = np.flatnonzero(value)
        places.append(np.stack([np.full(len(position), number), position, np.full(len(position), int(row["index"]))]))
        values.append(value[position])
    for token in chain(*texts, *(row[name] for row in features for name in ("pos_str", "neg_str"))):
        strings.setdefault(token, len(strings))
    if not texts:
        raise Invalid("There are no activations beside the features. Give the whole folder, with activations/batch-0.jsonl.gz.")
    where, first = np.unique(np.concatenate(places, 1), axis=1, return_index=True)  # a window may be shown in two bands
    sequences = tuple(np.array([strings[token] for token in tokens], np.int32) for tokens in texts)
    firings = Firings(sequences=sequences, sequence=where[0], position=where[1], feature=where[2], value=np.concatenate(values)[first])
    return firings, strings


def _stated(found: Statistics, features: list[dict[str, Any]], num_tokens: int | None) -> Statistics:
    """The statistics that the files state in place of those found in the examples alone; a bar counts where its middle is."""
    heights = {int(row["index"]): np.array(row["freq_hist_data_bar_heights"], np.float64) for row in features}
    shares = {int(row["index"]): float(row["frac_nonzero"] or 0) for row in features}
    told = [heights[index].sum() / share for index, share in shares.items() if share > 0 and heights[index].sum() > 0]
    num_tokens = num_tokens or (round(float(np.median(told))) if told else found.num_tokens)
    found = replace(found, num_tokens=num_tokens)
    for row in features:
        index, bars = int(row["index"]), np.array(row["freq_hist_data_bar_values"], np.float64)
        count, used = round(shares[index] * num_tokens), (heights[index] > 0) & (bars != 0)
        weight = heights[index][used] / max(1.0, heights[index][used].sum())
        found.count[index], found.max[index] = count, row["maxActApprox"] or 0
        found.total[index], found.squares[index] = count * (weight @ bars[used]), count * (weight @ bars[used] ** 2)
        where = bins(torch.from_numpy(bars[used])).numpy()
        found.histogram[index] = np.round(np.bincount(where, heights[index][used], minlength=NUM_BINS)).astype(np.int32)
    return found


def _geometry(features: list[dict[str, Any]], strings: dict[str, int], d_sae: int) -> Geometry:
    """Logits and neighbours as the files state them; their kurtosis is not known."""
    k = min((len(row[name]) for row in features for name in ("pos_str", "neg_str")), default=0)
    arrays = {name: np.zeros((d_sae, k), np.int32 if name.endswith("str") else np.float32) for name in _LENS}
    near = max((len(row.get("topkCosSimIndices") or ()) for row in features), default=0)
    index, similarity = np.full((d_sae, near), NOBODY, np.int32), np.zeros((d_sae, near), np.float32)
    for row in features:
        own = int(row["index"])
        for name, array in arrays.items():
            array[own] = [strings[token] for token in row[name][:k]] if name.endswith("str") else row[name][:k]
        others = row.get("topkCosSimIndices") or []
        index[own, : len(others)], similarity[own, : len(others)] = others, row["topkCosSimValues"]
    zeros = np.zeros(d_sae, np.float32)
    lens = LogitLens(*(arrays[name] for name in _LENS), kurtosis=zeros, skew=zeros, kurtosis_null=0.0) if k else None
    return Geometry({"decoder": Neighbours(index=index, similarity=similarity)}, lens)


_LENS = ("pos_str", "pos_values", "neg_str", "neg_values")


def export_features(run: Run, source: str | None, folder: Path, format: str) -> None:
    """A run's features as Neuronpedia imports them, or as delphi caches them, with their labels.

    Raises `Conflict` for a folder that holds something already or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} holds something already. Give a new folder: files of two dictionaries in one could be taken for one.")
    lab = Lab(run, source)
    if format == "delphi":
        _export_delphi(lab, folder)
        return
    store, when = lab.features, lab.folder.need("collect").finished
    about = neuronpedia.About(
        model=store.facts["model"], source=lab.source, hook=lab.folder.need("train").facts["hook"], num_tokens=store.num_tokens
    )
    features = (store.feature(i) for i in track(range(store.d_sae), stage="export", total=store.d_sae, unit="features"))
    labels = {index: store.labels_of(index) for index in store.labelled()}
    neuronpedia.write_source(folder / "v1", about, features, labels, when)


@torch.inference_mode()
def _export_delphi(lab: Lab, folder: Path) -> None:
    """All activations on the run's corpus, found anew: a feature store keeps only examples of them."""
    store, corpus = lab.features, lab.corpus
    parts = list(_codes(lab))
    sequence, position, feature, value = (np.concatenate([part[i] for part in parts]) for i in range(4))
    firings = Firings(
        sequences=tuple(corpus.window_tokens(number)[: corpus.window_length[number]] for number in range(corpus.num_windows)),
        sequence=sequence,
        position=position,
        feature=feature,
        value=value,
    )
    delphi.write_latents(folder, lab.hook, firings, lab.dictionary.d_sae, lab.subject.name)
    delphi.write_explanations(folder, lab.hook, {index: store.labels_of(index)[0].text for index in store.labelled()})


def _codes(lab: Lab) -> Iterator[tuple[np.ndarray, ...]]:
    dictionary = lab.dictionary
    for chunk in track(lab.store.chunks(), stage="export", total=lab.store.num_rows, unit="tokens"):
        for rows in torch.arange(len(chunk.x)).split(4096):
            codes = dictionary.encode(chunk.x[rows, : dictionary.d_in].to(dictionary.directions))
            row, slot = codes.values.nonzero(as_tuple=True)
            place = rows[row.cpu()]
            found = (chunk.window[place], chunk.position[place], codes.indices[row, slot].cpu(), codes.values[row, slot].float().cpu())
            yield tuple(part.numpy() for part in found)
