"""Where the log of a training goes: `log.jsonl` always, and TensorBoard, W&B and trackio where they are asked for.

A sink is made for one training, with its folder, its config as JSON and the steps that are done already: more than 0 where a training goes
on after a break, of which the sink may have seen some steps more. `write` takes the rows, `close` ends it.
"""

import contextvars
import importlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from saelab.describe import read_log
from saelab.errors import Invalid
from saelab.records import LogRow
from saelab.run import cannot_write, write_atomically
from saelab.values import to_dict

LOG_FILE = "log.jsonl"
"""The training log, a `LogRow` a line."""
PROJECT = "saelab"
"""Under which name W&B and trackio gather the trainings."""
SinkName = Literal["tensorboard", "wandb", "trackio"]
"""The sinks beside `log.jsonl`."""


class Sink(Protocol):
    """Takes the rows of a training log."""

    def write(self, row: LogRow) -> None:
        """One row more."""
        ...

    def close(self) -> None:
        """No row will follow."""
        ...


class Log:
    """`log.jsonl`, which the dashboard reads while it is written."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        self.file = folder / LOG_FILE
        if self.file.is_file():
            kept = [row for row in read_log(folder) if row.step <= steps_done]  # those after it will be written again
            write_atomically(self.file, "".join(json.dumps(to_dict(row)) + "\n" for row in kept))

    def write(self, row: LogRow) -> None:
        """One line more. Raises `Conflict` if it cannot be written."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(to_dict(row)) + "\n")
        except OSError as error:
            raise cannot_write(self.file, error) from None

    def close(self) -> None:
        """Nothing is left open."""


class TensorBoard:
    """Event files in the training's folder, under `tensorboard/`."""

    def __init__(self, folder: Path, _config: Mapping[str, Any], steps_done: int) -> None:
        tensorboard = _needed("torch.utils.tensorboard", "tensorboard")
        self._writer = tensorboard.SummaryWriter(str(folder / "tensorboard"), purge_step=steps_done + 1)

    def write(self, row: LogRow) -> None:
        """A scalar for each metric."""
        for name, number in row.metrics.items():
            self._writer.add_scalar(name, number, row.step)

    def close(self) -> None:
        """Ends the event file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases; its id lies in `wandb.id` in the folder, so that a training that goes on goes on in the same run."""

    def __init__(self, folder: Path, config: Mapping[str, Any], steps_done: int) -> None:
        wandb, file = _needed("wandb", "wandb"), folder / "wandb.id"
        if not steps_done or not file.is_file():
            write_atomically(file, uuid.uuid4().hex)
        self._run = wandb.init(
            project=PROJECT,
            name=folder.name,
            id=file.read_text(encoding="utf-8"),
            config=dict(config),
            dir=str(folder),
            resume="allow",
            reinit="create_new",  # the members of a sweep log side by side
        )

    def write(self, row: LogRow) -> None:
        """The metrics, at their step; steps that the run has seen already it leaves as they are."""
        self._run.log(dict(row.metrics), step=row.step)

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()


class Trackio:
    """A run of trackio, which keeps its data on this machine."""

    def __init__(self, folder: Path, config: Mapping[str, Any], steps_done: int) -> None:
        trackio = _needed("trackio", "trackio")
        name, resume = str(folder.resolve()), "allow" if steps_done else "never"
        alone = contextvars.Context()  # trackio ends the run that it finds in its context: here another member of a sweep
        self._run = alone.run(lambda: trackio.init(project=PROJECT, name=name, config=dict(config), resume=resume))

    def write(self, row: LogRow) -> None:
        """The metrics, at their step."""
        self._run.log(dict(row.metrics), step=row.step)

    def close(self) -> None:
        """Writes what is left."""
        self._run.finish()


SINKS: Mapping[SinkName, Callable[[Path, Mapping[str, Any], int], Sink]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}
"""What each name stands for."""


def open_sinks(names: Sequence[SinkName], folder: Path, config: Mapping[str, Any], steps_done: int) -> list[Sink]:
    """The sinks of a training, `log.jsonl` among them. Raises `Invalid` naming the package that is missing."""
    others = [SINKS[name](folder, config, steps_done) for name in names]
    return [Log(folder, steps_done), *others]


def _needed(module: str, package: str) -> Any:  # noqa: ANN401 - none of these packages need be there
    try:
        return importlib.import_module(module)
    except ImportError:
        raise Invalid(
            f"The sink {package!r} needs the package {package}, which is not installed. Run: pip install 'saelab[{package}]', or leave "
            "the sink out."
        ) from None
