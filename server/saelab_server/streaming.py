"""Generated text as server-sent events: `token` for each token, at the end `completion`, or else `error` with a problem document."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from threading import Event
from typing import Generic, TypeVar

from sse_starlette import EventSourceResponse, ServerSentEvent

from saelab.records import Completion, SteerToken
from saelab.values import to_dict
from saelab_server.errors import problem_of

T = TypeVar("T")


class EventStream(EventSourceResponse):
    """An answer of server-sent events that OpenAPI knows the media type of."""

    media_type = "text/event-stream"


class Worker(Generic[T]):
    """A generator at work in one thread, read by the event loop.

    One thread from its first item to its close: torch keeps its modes a thread. Leaving `items()` early, as a client's disconnect does,
    closes the generator after the item that it is making.

    Arguments:
    - `made`: a generator that has not begun.
    """

    def __init__(self, made: Generator[T]) -> None:
        self._made = made
        self._queue: asyncio.Queue[T | None] = asyncio.Queue()
        self._stopped = Event()
        self.error: BaseException | None = None

    async def items(self) -> AsyncGenerator[T]:
        """The items as they come. An error of the generator ends them, and is in `error` then."""
        self._loop = asyncio.get_running_loop()
        work = self._loop.run_in_executor(None, self._work)
        try:
            while (item := await self._queue.get()) is not None:
                yield item
            await asyncio.wait([work])
            self.error = work.exception()
        finally:
            self._stopped.set()

    def _work(self) -> None:
        try:
            with closing(self._made):
                for item in self._made:
                    if self._stopped.is_set():
                        return
                    self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        finally:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, None)


async def events(made: Generator[SteerToken | Completion], path: str) -> AsyncGenerator[ServerSentEvent]:
    """The events of a generation. `path` is the request's, for the problem document."""
    worker = Worker(made)
    async with aclosing(worker.items()) as items:
        async for item in items:
            yield ServerSentEvent(_line(item), event="token" if isinstance(item, SteerToken) else "completion")
    if worker.error:
        yield ServerSentEvent(_line(problem_of(worker.error, path)), event="error")


def _line(item: object) -> str:
    return json.dumps(to_dict(item), ensure_ascii=False)
