"""Reading ahead."""

import threading
import time
import weakref
from collections.abc import Iterator

import pytest
import torch

from saelab.activations.prefetch import ahead, begun, fetched, sent
from saelab.errors import Corrupt


def test_items_come_in_order_and_end():
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(ahead(iter([]))) == []


def test_what_making_an_item_raises_is_raised_in_its_place():
    def torn() -> Iterator[int]:
        yield 1
        yield 2
        raise Corrupt("torn")

    items = ahead(torn())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(Corrupt, match="torn"):
        next(items)


def test_the_next_item_is_made_while_one_is_in_use():
    made: list[int] = []

    def slow() -> Iterator[int]:
        for number in range(4):
            time.sleep(0.05)
            made.append(number)
            yield number

    items = ahead(slow())
    assert next(items) == 0
    time.sleep(0.3)
    assert made == [0, 1]
    items.close()


def test_no_more_than_two_items_are_held():
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    def groups() -> Iterator[torch.Tensor]:
        nonlocal most
        for number in range(6):
            item = torch.full((3,), number)
            alive.add(item)
            most = max(most, len(alive))
            yield item
            del item

    for item in ahead(groups()):
        time.sleep(0.01)
        del item
    assert most == 2


def test_the_thread_ends_with_the_iterator():
    items = ahead(iter(range(100)))
    next(items)
    items.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("saelab-reader")]


@pytest.mark.parametrize("ahead_by", [0, 2])
def test_works_are_begun_before_the_result_of_one_is_waited_for(ahead_by: int):
    started: list[int] = []

    def begin(number: int):
        started.append(number)
        return lambda: number

    results = begun(map(begin, range(5)), ahead_by)
    assert next(results) == 0
    assert started == list(range(ahead_by + 1))
    assert list(results) == [1, 2, 3, 4]


def test_on_a_cpu_nothing_is_copied_on_the_way():
    x = torch.zeros(3)
    assert sent(x, x.device) is x
    assert fetched(x)()[0].data_ptr() == x.data_ptr()
