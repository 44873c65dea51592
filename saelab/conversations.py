"""Conversations as a subject's chat template writes them, with the role of every token.

Few templates mark what the assistant says, and none marks the other roles. So the spans are read off the text: the template is also
rendered with a mark in place of each message, and what stands between the marks is the template's own. This holds for templates that strip
or rewrite what is said.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from jaxtyping import UInt8

from saelab.errors import Invalid
from saelab.policy import KINDS, TokenKind


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    """Who speaks: `system`, `user`, `assistant` or `tool`."""
    content: str
    """What is said."""


ROLES: Mapping[str, TokenKind] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
"""The kind of token of each role."""
_MARK = "\ue000"


def role_spans(render: Callable[[Sequence[Message]], str], messages: Sequence[Message]) -> tuple[str, list[tuple[int, int, TokenKind]]]:
    """The rendered conversation, and where in it each message that is not empty stands. Raises `Invalid` where that cannot be told."""
    odd = sorted({message["role"] for message in messages} - ROLES.keys())
    if odd:
        raise Invalid(f"The role {odd[0]!r} is not known. Known: {', '.join(ROLES)}.")
    text = render(messages)
    said = [message for message in messages if message["content"].strip()]
    marked = [Message(role=message["role"], content=_MARK if message["content"].strip() else message["content"]) for message in messages]
    pieces = render(marked).split(_MARK)
    if len(pieces) != len(said) + 1 or not text.startswith(pieces[0]):
        raise _untold(text)
    spans: list[tuple[int, int, TokenKind]] = []
    begin = len(pieces[0])
    for number, (message, piece) in enumerate(zip(said, pieces[1:], strict=True), start=1):
        end = _end(text, begin, message["content"], piece, last=number == len(said))
        spans.append((begin, end, ROLES[message["role"]]))
        begin = end + len(piece)
    return text, spans


def _end(text: str, begin: int, content: str, after: str, *, last: bool) -> int:
    """Where a message that begins somewhere ends, before the template's next piece."""
    for written in (content, content.strip()):
        end = begin + len(written)
        if text.startswith(written + after, begin) and (not last or end + len(after) == len(text)):
            return end
    end = len(text) - len(after) if last else text.find(after, begin)
    if end < begin or not text.startswith(after, end):
        raise _untold(text)
    return end


def _untold(text: str) -> Invalid:
    return Invalid(
        f"The chat template leaves out or repeats messages, so that it cannot be told who says what in {text[:80]!r}... "
        "Give conversations that the template writes whole, or their texts with another source."
    )


def tokens_with_roles(
    tokenizer: Any,  # noqa: ANN401 - untyped by transformers
    text: str,
    spans: Sequence[tuple[int, int, TokenKind]],
) -> tuple[list[int], UInt8[np.ndarray, " pos"]]:
    """Token ids of a rendered conversation, and the number of each token's role, `template` outside of all spans.

    A token that reaches over an edge belongs to where its middle is. Raises `Invalid` for a tokenizer that does not say which characters a
    token is made of.
    """
    if not tokenizer.is_fast:
        raise Invalid(f"{type(tokenizer).__name__} does not say which characters a token is made of, so roles cannot be told.")
    roles = np.full(len(text) + 1, KINDS.index("template"), np.uint8)
    for begin, end, kind in spans:
        roles[begin:end] = KINDS.index(kind)
    encoded = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    middle = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2).sum(axis=1) // 2
    return encoded["input_ids"], roles[middle]
