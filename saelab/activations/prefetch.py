"""Reading ahead: the next item is made in the background while the current one is in use."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made by one background thread while the one before it is in use; none of them may be `None`.

    Never more than two items are held: the current one, and the next. What making one raises is raised here, in its place. The thread ends
    with the iterator, at the latest when the item that it is making is made.
    """
    reader = ThreadPoolExecutor(1, thread_name_prefix="saelab-reader")
    try:
        coming = reader.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = reader.submit(next, items, None)
            yield item
            del item  # a third item is begun only when this one is free
    finally:
        reader.shutdown(cancel_futures=True)
