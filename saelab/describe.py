"""What a run holds, told from its manifests and logs alone: listing runs loads no model and no tensor."""

from pathlib import Path
from typing import TypeVar

from saelab.errors import Corrupt, Invalid, NotFound, unknown
from saelab.records import LogRow, Quality, RunSummary, Source
from saelab.reports import Report, ReportSummary
from saelab.run import RUN_STAGES, SOURCE_STAGES, Manifest, Run, Stages, read_saved
from saelab.values import from_json

T = TypeVar("T")
_REPORTS = "reports"


def describe_run(run: Run) -> RunSummary:
    """What the run holds. Raises `Corrupt` naming the file that cannot be read."""
    read = run.manifest("read")
    return RunSummary(
        name=run.name,
        model=_model(run),
        stages=_stages(run, RUN_STAGES),
        num_tokens=_fact(run, read, "num_tokens", int) if read else 0,
        sources=tuple(describe_source(run, name) for name in run.sources()),
    )


def describe_source(run: Run, name: str) -> Source:
    """A dictionary of the run, trained or still in training. Raises `NotFound` with what there is, `Corrupt` naming an unreadable file."""
    folder = run.find_source(name)
    train, label = folder.manifest("train"), folder.manifest("label")
    model = _fact(folder, train, "model", str) if train else _model(run)
    if model is None:
        raise Corrupt(f"{folder.path} lies in a run that names no model. Expected read.json in {run.path}. Run: saelab read {run.path}")
    stages = _stages(folder, SOURCE_STAGES)
    return Source(
        model=model,
        source=name,
        run=run.name,
        architecture=_fact(folder, train, "architecture", str) if train else None,
        hook=_fact(folder, train, "hook", str) if train else None,
        d_in=_fact(folder, train, "d_in", int) if train else None,
        d_sae=_fact(folder, train, "d_sae", int) if train else None,
        stages=stages,
        quality=read_saved(Quality, folder.path / "quality.json") if "evaluate" in stages else None,
        num_labelled=_fact(folder, label, "num_labelled", int) if label else 0,
    )


def read_log(folder: Path, after: int = -1) -> list[LogRow]:
    """Rows of a dictionary's training log with `step > after`, also while it is being written.

    A line without its newline is still on its way and does not count. Raises `Corrupt` naming a whole line that is no row.
    """
    file = folder / "log.jsonl"
    if not file.is_file():
        return []
    rows: list[LogRow] = []
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
        try:
            rows.append(from_json(LogRow, line, where=f"{file}, line {number}"))
        except Invalid as error:
            raise Corrupt(str(error)) from None
    return [row for row in rows if row.step > after]


def report_file(folder: Stages, name: str) -> Path:
    """Where the report of an analysis of a dictionary lies."""
    return folder.path / _REPORTS / f"{name}.json"


def read_reports(folder: Stages) -> tuple[Report, ...]:
    """The reports on a dictionary, by name. Raises `Corrupt` for a file that is none."""
    return tuple(read_saved(Report, file) for file in sorted((folder.path / _REPORTS).glob("*.json")))


def read_report(folder: Stages, name: str) -> Report:
    """One report on a dictionary. Raises `NotFound` with what there is, `Corrupt` for a file that is none."""
    known = [file.stem for file in (folder.path / _REPORTS).glob("*.json")]
    if name not in known:
        raise NotFound(f"{unknown('report', name, known)} `saelab analyse` makes reports.")
    return read_saved(Report, report_file(folder, name))


def describe_report(report: Report, folder: Stages) -> ReportSummary:
    """The report in short, and whether it is of the dictionary as it is now."""
    train = folder.manifest("train")
    return ReportSummary(
        analysis=report.analysis,
        question=report.question,
        experimental=report.experimental,
        measures=report.measures,
        notes=report.notes,
        current=train is not None and train.finished == report.trained,
        seconds=report.seconds,
    )


def _stages(folder: Stages, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if folder.manifest(name))


def _model(run: Run) -> str | None:
    """Id of the run's subject, which the first stage writes down."""
    read = run.manifest("read")
    return _fact(run, read, "model", str) if read else None


def _fact(folder: Stages, manifest: Manifest, name: str, kind: type[T]) -> T:
    found = manifest.facts.get(name)
    if not isinstance(found, kind):
        file = folder.path / f"{manifest.stage}.json"
        raise Corrupt(f"{file}: facts.{name} is {found!r}, expected {kind.__name__}. Delete the file and run its stage again.")
    return found
