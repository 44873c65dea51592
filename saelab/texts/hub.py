"""Data sets of the Hugging Face hub, and folders that `datasets` saved or can read."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

from saelab.errors import Invalid, NotFound
from saelab.hub import hub
from saelab.texts.base import TEXTS, Document, TextSource
from saelab.texts.chats import messages_of
from saelab.texts.rows import column
from saelab.values import value


@TEXTS.register("hub")
@value
class Hub(TextSource):
    """A data set by its name on the hub or its local folder, read with the library `datasets`, a document a row."""

    name: str
    """Name on the hub, such as `roneneldan/TinyStories`, or a local folder."""
    subset: str | None = None
    """Configuration of the data set, where it has several."""
    split: str = "train"
    """Split to read."""
    streaming: bool = True
    """Read rows as they are needed; otherwise the whole data set is downloaded first."""
    text_field: str = "text"
    """Column that holds the text."""
    messages_field: str | None = None
    """Column that holds conversations, in place of text."""
    domain_field: str | None = None
    """Column that holds the kind of text; without one, the data set's name is every document's domain."""
    max_documents: int | None = None
    """Documents to stop after; all without it."""

    def documents(self) -> Iterator[Document]:
        """The rows in the data set's order; keys are the data set's name, the split and the row's number.

        Raises `NotFound` for a data set that is not there or cannot be reached, `Invalid` for a wrong subset, split or column.
        """
        name = Path(self.name).name if Path(self.name).is_dir() else self.name
        for number, row in enumerate(islice(self._rows(), self.max_documents)):
            where = f"{self.name}, row {number}"
            domain = str(column(row, self.domain_field, where)) if self.domain_field else name
            key = f"{name}/{self.split}/{number}"
            if self.messages_field is not None:
                yield Document(key=key, domain=domain, messages=messages_of(column(row, self.messages_field, where), where))
            else:
                yield Document(key=key, domain=domain, text=self._text(row, where))

    def _text(self, row: Any, where: str) -> str:  # noqa: ANN401 - whatever the data set holds
        text = column(row, self.text_field, where)
        if not isinstance(text, str):
            raise Invalid(f"{where}: the column {self.text_field!r} holds {type(text).__name__}, not text.")
        return text

    @property
    def has_conversations(self) -> bool:
        """Whether a column of conversations was named."""
        return self.messages_field is not None

    def _rows(self) -> Iterator[Any]:
        """The rows. Imports `datasets`, which is slow, here and nowhere else."""
        import datasets
        from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

        try:
            if (Path(self.name) / "state.json").is_file() or (Path(self.name) / "dataset_dict.json").is_file():
                yield from _split(datasets.load_from_disk(self.name), self.split)
            else:
                with hub():
                    rows = datasets.load_dataset(self.name, self.subset, split=self.split, streaming=self.streaming)
                yield from rows
        except (DatasetNotFoundError, FileNotFoundError) as error:
            raise NotFound(f"No data set {self.name!r}: {error} Check the name, or whether you must log in to read it.") from None
        except ConnectionError as error:
            raise NotFound(
                f"The data set {self.name!r} cannot be reached: {error} This machine is offline, or told to be so by HF_HUB_OFFLINE. "
                "Give a local folder, use your own files, or the bundled corpus, which needs no network."
            ) from None
        except (DatasetGenerationError, ValueError) as error:
            raise Invalid(f"The data set {self.name!r} cannot be read as asked: {error}") from None


def _split(loaded: object, split: str) -> Iterable[Any]:
    """The rows of a saved data set, or of one split of a saved collection of them."""
    if not isinstance(loaded, dict):
        return cast("Iterable[Any]", loaded)
    if split not in loaded:
        raise Invalid(f"The saved data set has no split {split!r}. Splits there: {', '.join(map(str, loaded))}.")
    return cast("Iterable[Any]", loaded[split])
