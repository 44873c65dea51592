"""Where an activation comes from: document, window, position and token of a row."""

from saelab.corpus import Corpus
from saelab.values import value


@value
class Origin:
    """The place in the corpus of one activation."""

    document: str
    """Key of the document."""
    domain: str
    """Kind of text of the document."""
    held_out: bool
    """Whether the document is kept from training."""
    window: int
    """Number of the window in the corpus."""
    position: int
    """Position in the window."""
    token: int
    """Id of the token there."""

    def __str__(self) -> str:
        """The place in words, for messages."""
        return f"document {self.document!r} ({self.domain}), window {self.window}, position {self.position}, token id {self.token}"


def origin(corpus: Corpus, window: int, position: int) -> Origin:
    """Traces a row of a store of this corpus, by its `window` and `position`."""
    info = corpus.document(int(corpus.window_document[window]))
    return Origin(
        document=info.key,
        domain=info.domain,
        held_out=info.held_out,
        window=window,
        position=position,
        token=int(corpus.window_tokens(window)[position]),
    )
