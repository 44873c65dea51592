"""Which documents fire a feature: postings by document, with the text around the strongest activation."""

from collections.abc import Sequence

import numpy as np

from saelab.errors import Invalid
from saelab.features.postings import Firings, Postings
from saelab.records import Example, FiringDocument, FiringDocuments

_BEFORE, _AFTER = 20, 10


def firing_documents(postings: Postings, index: int, strings: Sequence[str], cursor: str | None = None, limit: int = 10) -> FiringDocuments:
    """A page of the documents that fire a feature, those with the strongest activation first.

    Arguments:
    - `strings`: every token of the subject as text, by id.
    - `cursor`: `next_cursor` of the page before.

    Raises `NotFound` if there is no such feature, `Invalid` for a cursor that cannot be right.
    """
    begin = _place(cursor)
    found = postings.feature(index)
    by_document = np.lexsort((-np.abs(found.value), found.document))
    _, first, count = np.unique(found.document[by_document], return_index=True, return_counts=True)
    peak = by_document[first]
    order = np.argsort(-np.abs(found.value[peak]), kind="stable")
    shown = order[begin : begin + limit].tolist()
    return FiringDocuments(
        items=tuple(
            FiringDocument(
                key=postings.corpus.document(found.document[peak[place]]).key,
                count=int(count[place]),
                example=_example(postings, found, int(peak[place]), strings),
            )
            for place in shown
        ),
        total=len(order),
        kept=len(postings.documents),
        next_cursor=str(begin + limit) if begin + limit < len(order) else None,
    )


def _example(postings: Postings, found: Firings, row: int, strings: Sequence[str]) -> Example:
    corpus, window, position = postings.corpus, int(found.window[row]), int(found.position[row])
    document, tokens = corpus.document(found.document[row]), corpus.window_tokens(window)
    begin = max(int(corpus.policy.prepend_bos), position - _BEFORE)
    values = np.zeros(len(tokens))
    inside = found.window == window
    values[found.position[inside]] = found.value[inside]
    shown = slice(begin, position + _AFTER + 1)
    return Example(
        document=int(found.document[row]),
        domain=document.domain,
        split=document.split,
        position=int(corpus.window_start[window]) + begin - corpus.policy.prepend_bos,
        tokens=tuple(strings[int(token)] for token in tokens[shown]),
        values=tuple(values[shown].tolist()),
        peak=position - begin,
    )


def _place(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 10):
        raise Invalid(f"{cursor!r} is not a cursor. Give the next_cursor of the page before, or none for the first page.")
    return int(cursor)
