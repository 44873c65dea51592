"""The commands about collected features: collecting them, what fires where, and documents as vectors."""

from pathlib import Path

import numpy as np
from rich.table import Table
from safetensors.numpy import save_file
from tyro.conf import OmitArgPrefixes, Positional

from saelab import stages
from saelab.console import OUT
from saelab.errors import Invalid
from saelab.features.collect import CollectConfig, Part
from saelab.features.postings import Firings, Pooling, Postings
from saelab.lab import Lab
from saelab.progress import note
from saelab.run import open_run, whole
from saelab.values import value


@value
class Collect:
    """Collects statistics and examples of every feature in one pass, of several dictionaries together.

    Under torchrun each process collects a part.
    """

    run: Positional[Path]
    """The run's folder."""
    source: tuple[str, ...] = ()
    """The dictionaries; not needed where the run has only one."""
    hook: str | None = None
    """Where the features of a pooled dictionary are looked at; none for its first hook."""
    store: str | None = None
    """A PostgreSQL database for the features, such as postgresql://user@host/database; none for a file in the run."""
    part: int = 0
    """Number of the part that this process collects, from 0, where `--parts` is more than 1."""
    parts: int = 1
    """Collect only one of so many parts, such as one on each GPU or machine; once all are done, run the command without it."""
    config: OmitArgPrefixes[CollectConfig] = CollectConfig()
    """What is kept."""

    def __call__(self) -> None:
        """Does it."""
        part = None if self.parts == 1 else Part(number=self.part, of=self.parts)
        stages.collect(open_run(self.run), self.config, self.source, hook=self.hook, store=self.store, part=part)
        if part is not None:
            note(f"Part {self.part} of {self.parts} is collected. When all parts are, the same command without --part puts them together.")


@value
class FindFirings:
    """Shows which tokens fire a feature, or which features a document fires. Needs postings (`saelab collect --postings`)."""

    run: Positional[Path]
    """The run's folder."""
    feature: int | None = None
    """The feature."""
    document: int | None = None
    """The number of the document."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""
    limit: int = 20
    """Rows to show; the strongest activations come first."""

    def __call__(self) -> None:
        """Does it."""
        if (self.feature is None) == (self.document is None):
            raise Invalid("Give one of --feature and --document.")
        lab = Lab(open_run(self.run), self.source)
        found = Postings(lab.folder.path, lab.corpus)
        firings = found.document(self.document) if self.document is not None else found.feature(self.feature or 0)
        OUT.print(_table(lab, firings, self.limit))
        share = "" if found.share == 1 else f", in {len(found.documents):,} of {lab.corpus.num_documents:,} documents"
        OUT.print(f"{len(firings):,} activations{share}", style="dim")


def _table(lab: Lab, firings: Firings, limit: int) -> Table:
    table = Table("feature", "document", "position", "token", "activation")
    for row in np.argsort(-np.abs(firings.value), kind="stable")[: max(0, limit)].tolist():
        origin = lab.corpus.origin(firings.window[row], firings.position[row])
        token = repr(lab.subject.strings([origin.token])[0]).replace("[", "\\[")
        cells = (str(firings.feature[row]), f"{firings.document[row]} {origin.document}", str(origin.position), token)
        table.add_row(*cells, f"{firings.value[row]:.3f}")
    return table


@value
class DocumentVectors:
    """Writes one sparse vector of features a document. Needs postings (`saelab collect --postings`)."""

    run: Positional[Path]
    """The run's folder."""
    out: Positional[Path]
    """The file to write, `.safetensors`: row i is `feature` and `value` from `begin[i]` to `begin[i + 1]`."""
    pooling: Pooling = "max"
    """A feature's strongest activation in the document, its mean over the document's tokens, or 1 where it fires."""
    source: str | None = None
    """The dictionary; not needed where the run has only one."""

    def __call__(self) -> None:
        """Does it."""
        lab = Lab(open_run(self.run), self.source)
        vectors = Postings(lab.folder.path, lab.corpus).vectors(self.pooling)
        arrays = {"begin": vectors.indptr.astype(np.int64), "feature": vectors.indices.astype(np.int32), "value": vectors.data}
        facts = {"pooling": self.pooling, "source": lab.source, "d_sae": str(lab.dictionary.d_sae)}
        with whole(self.out) as half:
            save_file(arrays, half, facts)
        OUT.print(f"{self.out}: {lab.corpus.num_documents:,} documents, {vectors.nnz:,} values")
