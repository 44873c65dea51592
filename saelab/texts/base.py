"""Text sources: a folder of files, a data set of the hub, conversations, token ids, the bundled corpus, the toy world.

A source is a value: its fields are its config. It gives documents in a fixed order, so that the same config always gives the same corpus.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from saelab.conversations import Message
from saelab.registry import Registry

PIECE = 2000
"""Characters of a document that was cut from a long text, about."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text, conversation or row of token ids: the unit that is held out from training."""

    key: str
    """Unique name, such as `speeches/1861-Lincoln-1/7`; splits are made from its hash."""
    domain: str
    """Kind of text, such as `speeches`."""
    text: str = ""
    """The text itself, of a document that is one."""
    messages: Sequence[Message] = ()
    """The turns of a conversation, which the subject's chat template writes."""
    ids: Int[np.ndarray, " pos"] | None = None
    """Token ids of a document that was made into tokens before."""


class TextSource(ABC):
    """Where documents come from. Subclasses are values (`@value`) registered in `TEXTS`."""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """The documents, always in the same order."""

    @property
    def has_conversations(self) -> bool:
        """Whether the documents are conversations, each of which is one window."""
        return False

    @property
    def made_with(self) -> str | None:
        """The model whose tokenizer made the documents' token ids, where that is known."""
        return None


TEXTS: Registry[TextSource] = Registry("text source", "saelab.texts")
"""All text sources, by name."""


def pieces(paragraphs: Iterable[str], size: int = PIECE, glue: str = "\n\n") -> Iterator[str]:
    """Cuts a long text at its paragraphs into pieces of about `size` characters.

    A piece ends at the first paragraph end past `size`; a paragraph longer than twice that is itself cut at white space.

    Arguments:
    - `paragraphs`: the text's paragraphs in order; empty ones are left out.
    - `size`: characters of a piece, about.
    - `glue`: what stands between two paragraphs.
    """
    gathered: list[str] = []
    length = 0
    for paragraph in paragraphs:
        for part in _parts(paragraph, size):
            gathered.append(part)
            length += len(part)
            if length >= size:
                yield glue.join(gathered)
                gathered, length = [], 0
    if gathered:
        yield glue.join(gathered)


def _parts(paragraph: str, size: int) -> Iterator[str]:
    """The paragraph, or where it is much too long its parts; blank ones are left out."""
    begin = 0
    while len(paragraph) - begin > 2 * size:
        space = paragraph.find(" ", begin + size, begin + 2 * size)
        end = space if space >= 0 else begin + size
        if not paragraph[begin:end].isspace():
            yield paragraph[begin:end]
        begin = end
    if paragraph[begin:].strip():
        yield paragraph[begin:]
