"""The encoder: documents of every form (text, conversation, token ids) to token ids with the role of each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from saelab.conversations import Message
from saelab.errors import Invalid
from saelab.policy import TokenPolicy
from saelab.texts.base import Document

Chat = Callable[[Sequence[Message]], tuple[list[int], UInt8[np.ndarray, " pos"]]]
"""How a subject writes a conversation: token ids, and the number of each token's role (`KINDS`)."""


@dataclass(frozen=True)
class Encoder:
    """Makes documents of every form into token ids with roles."""

    encode: Callable[[str], list[int]]
    """The subject's tokenizer, without special tokens of its own."""
    chat: Chat | None
    """The subject's way of writing conversations; none where it has none."""
    policy: TokenPolicy
    """How windows are made."""
    num_ids: int | None
    """Size of the subject's vocabulary; none where any id will do."""

    def all(
        self, documents: Iterable[Document], max_tokens: int | None
    ) -> Iterator[tuple[Document, Int[np.ndarray, " pos"], UInt8[np.ndarray, " pos"]]]:
        """Documents with their ids and roles, up to so many tokens. Raises what `one` and the documents raise."""
        left = max_tokens
        for document in documents:
            ids, roles = self.one(document)
            yield document, ids[:left].astype(np.int32), roles[:left]
            if left is not None:
                left -= len(ids[:left])
                if left == 0:
                    return

    def one(self, document: Document) -> tuple[Int[np.ndarray, " pos"], UInt8[np.ndarray, " pos"]]:
        """A document's ids and roles. Raises `Invalid` naming the document whose conversation or ids the subject cannot read."""
        if document.messages:
            if self.chat is None:
                raise Invalid("Conversations need a subject with a chat template. Give their texts with another source.")
            try:
                ids, roles = self.chat(document.messages)
            except Invalid as error:
                raise Invalid(f"{document.key}: {error}") from None
            return np.array(ids, dtype=np.int64), roles
        ids = np.array(self.encode(document.text), dtype=np.int64) if document.ids is None else self._known(document.ids, document.key)
        return ids, np.zeros(len(ids), np.uint8)

    def _known(self, ids: Int[np.ndarray, " pos"], key: str) -> Int[np.ndarray, " pos"]:
        """Ids from outside, without a beginning-of-sequence token where windows bring their own."""
        odd = np.flatnonzero((ids < 0) | (ids >= (self.num_ids or 2**31)))
        if odd.size:
            raise Invalid(
                f"{key}: token {odd[0]} has the id {ids[odd[0]]}, where the subject knows 0 to {(self.num_ids or 2**31) - 1}. The ids were "
                "made with another tokenizer: read with the model that it belongs to."
            )
        return ids[1:] if self.policy.prepend_bos and ids.size and ids[0] == self.policy.bos_id else ids
