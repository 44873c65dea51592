"""Labelled tasks for probes: rows of activations with a yes or no, from the data sets of `sae-probes` or from the run's own text.

`sae-probes` (MIT; Kantamneni et al. 2025, https://arxiv.org/abs/2502.16681) is a PyPI package that carries 113 binary tasks of short texts
as compressed tables. They are read as files: the package itself is never imported. `pip install --no-deps sae-probes==0.4.2` is enough.
A text's row is the activation on its last token; of a longer text the end is read.

Without it the tasks are the named concepts of `saelab/analyses/lexicon.py`: is this token one of them? Rows of one document stay together.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.analyses.lexicon import concept_labels
from saelab.analyses.rows import sample_rows
from saelab.errors import Corrupt, NotFound
from saelab.lab import Lab, prompt_tokens
from saelab.progress import track

_PACKAGE = "sae-probes"
_INDEX = "sae_probes/data/probing_datasets_MASTER.csv.zst"
_LEAST = 40
"""Rows of the rarer kind below which a task is left out."""
_BATCH = 16


@dataclass(frozen=True)
class Task:
    """Rows to be told apart."""

    name: str
    """What is asked."""
    x: Float[Tensor, "row width"]
    """Activations, as the dictionary's training rows hold them."""
    positive: Bool[np.ndarray, " row"]
    """The answers."""
    group: Int[np.ndarray, " row"]
    """Rows of one group are never on both sides of a split."""


def installed() -> bool:
    """Whether the tasks of `sae-probes` are there."""
    try:
        metadata.distribution(_PACKAGE)
    except metadata.PackageNotFoundError:
        return False
    return True


def text_tasks(lab: Lab, tasks: int | None, rows: int, max_tokens: int, seed: int) -> Iterator[Task]:
    """Tasks of `sae-probes`, each with as many rows of either kind.

    Arguments:
    - `tasks`: how many, spread evenly over the list; all without it.
    - `rows`: rows of a task, at most.
    - `max_tokens`: tokens that are read of a text, its last ones.

    Raises `NotFound` where the package is not installed, `Corrupt` naming a file that is not what it should be.
    """
    names = task_names()
    picked = names if tasks is None else [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(tasks, len(names))).astype(int))]
    for name in track(picked, stage="analyse", total=len(picked), unit="tasks"):
        texts, positive = read_task(name)
        chosen = balanced(positive, rows, np.random.default_rng(seed))
        x = last_rows(lab, [texts[i] for i in chosen], max_tokens)
        yield Task(name=name, x=x, positive=positive[chosen], group=_same([texts[i] for i in chosen]))


def token_tasks(lab: Lab, tasks: int | None, rows: int, seed: int) -> Iterator[Task]:
    """Named concepts as tasks: tokens that have one against tokens that do not, in held-out documents."""
    found = sample_rows(lab, 50_000, seed, held_out=True)
    names, labels = concept_labels(lab, found.window, found.position)
    common = [i for i, column in enumerate(labels.T) if min(column.sum(), (~column).sum()) >= _LEAST]
    for number in common[:tasks]:
        chosen = balanced(labels[:, number], rows, np.random.default_rng(seed))
        part = found.where(chosen)
        yield Task(name=names[number], x=part.x, positive=labels[chosen, number], group=part.document)


def task_names() -> list[str]:
    """Names of the binary tasks of `sae-probes`, in its own order. Raises `NotFound` where it is not installed."""
    table = _read(_INDEX)
    return [Path(row["Dataset save name"]).stem for row in table if row["Data type"] == "Binary Classification"]


def read_task(name: str) -> tuple[list[str], Bool[np.ndarray, " row"]]:
    """Texts and answers of a task. Raises `Corrupt` where it has not two answers."""
    table = _read(f"sae_probes/data/cleaned_data/{name}.csv.zst")
    answers = sorted({row["target"] for row in table})
    if len(answers) != 2:
        raise Corrupt(f"The task {name} of {_PACKAGE} has {len(answers)} answers, where 2 were expected. Install the package again.")
    yes = answers[1] if answers[0].lower().startswith(("0", "no", "false")) or answers[1] == f"is_{answers[0]}" else answers[0]
    return [row["prompt"] for row in table], np.array([row["target"] == yes for row in table])


def _read(file: str) -> list[dict[str, str]]:
    try:
        place = Path(str(metadata.distribution(_PACKAGE).locate_file(file)))
        with pa.input_stream(str(place), compression="zstd") as stream:
            text = stream.read().decode()
    except (metadata.PackageNotFoundError, FileNotFoundError):
        raise NotFound(f"The tasks of {_PACKAGE} are not installed. Run: pip install --no-deps {_PACKAGE}==0.4.2") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Corrupt(f"{file} of {_PACKAGE} cannot be read: {error}. Install the package again.") from None
    return list(csv.DictReader(io.StringIO(text)))


def balanced(positive: Bool[np.ndarray, " row"], rows: int, draw: np.random.Generator) -> Int[np.ndarray, " some"]:
    """Numbers of random rows, as many of either kind, `rows` in all at most, in random order."""
    kinds = [draw.permutation(np.flatnonzero(kind)) for kind in (positive, ~positive)]
    each = min(rows // 2, *(len(kind) for kind in kinds))
    return draw.permutation(np.concatenate([kind[:each] for kind in kinds]))


def _same(texts: list[str]) -> Int[np.ndarray, " row"]:
    """A number for each text, equal texts alike."""
    return np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)[1]


def last_rows(lab: Lab, texts: list[str], max_tokens: int) -> Float[Tensor, "text width"]:
    """The activation on each text's last token that counts, as the dictionary's training rows hold it."""
    found: dict[int, Tensor] = {}
    for number, x, counted in text_rows(lab, texts, max_tokens):
        places = np.flatnonzero(counted)
        found[number] = x[int(places[-1]) if len(places) else -1]
    return torch.stack([found[number] for number in range(len(texts))])


@torch.inference_mode()
def text_rows(
    lab: Lab, texts: Sequence[str], max_tokens: int
) -> Iterator[tuple[int, Float[Tensor, "pos width"], Bool[np.ndarray, " pos"]]]:
    """Each text's number, its activations as training rows hold them, and which positions count; short texts first.

    Arguments:
    - `max_tokens`: tokens that are read of a text, its last ones.
    """
    read = [_ending(lab, text, max_tokens) for text in texts]
    lengths = np.array([len(ids) for ids, _ in read])
    order = np.argsort(lengths, kind="stable")
    for part in np.array_split(order, -(-len(order) // _BATCH)):
        ids = torch.zeros(len(part), int(lengths[part].max()), dtype=torch.long)
        for row, number in enumerate(part):
            ids[row, : lengths[number]] = torch.tensor(read[number][0])
        x = lab.rows(ids).float().cpu()
        yield from ((int(number), x[row, : lengths[number]], read[number][1]) for row, number in enumerate(part))


def _ending(lab: Lab, text: str, max_tokens: int) -> tuple[list[int], Bool[np.ndarray, " pos"]]:
    """The last tokens of a text, and which of them count; a blank text is its beginning alone."""
    ids, counted = prompt_tokens(lab.subject, lab.policy, text or " ")
    begun = ids[:1] if lab.policy.prepend_bos else []
    limit = min(max_tokens, lab.subject.max_context)
    if len(ids) > limit:
        ids, counted = [*begun, *ids[len(ids) - limit + len(begun) :]], counted[len(counted) - limit :]
    return ids, np.array(counted, np.bool_)
