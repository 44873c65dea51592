"""Chat: questions to any OpenAI-compatible endpoint (OpenAI, vLLM, Ollama, llama.cpp, `saelab serve`), asked once each.

Every answer is kept in a file under the hash of the whole request, so that what was paid for is never paid for again: work that was cut
short goes on where it was. The ledger says how many answers were asked for and how many came from that file, and what they cost.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import fields
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from saelab.errors import Conflict, Corrupt, Invalid, NotFound, SaelabError, Unscored
from saelab.values import to_dict, value
from saelab.weights import cache_folder

S = TypeVar("S")
T = TypeVar("T")

Message = Mapping[str, str]
"""One message of a conversation: `role` (system, user, assistant) and `content`."""

_TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, request TEXT, answer TEXT, tokens_in INT, tokens_out INT)"
_PRICED = 8
_LETTERS_PER_TOKEN = 3.5
"""Letters of English text in a token, on the low side, for prices told in advance."""


@value
class Endpoint:
    """Where a language model answers, and how it is asked."""

    url: str = "http://127.0.0.1:8000/v1"
    """Base address of an OpenAI-compatible endpoint."""
    model: str = ""
    """The model's id there; empty for the first that the endpoint lists."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, where the endpoint asks for one. The key itself is never written down."""
    temperature: float = 0.0
    """0 for the likeliest answer."""
    max_tokens: int = 400
    """Tokens that one answer may have."""
    parallel: int = 8
    """Questions that are asked at once."""
    retries: int = 5
    """How often a question is asked again after a failure of the network or the endpoint, after longer and longer waits."""
    timeout: float = 120.0
    """Seconds that one answer may take."""
    price_in: float = 0.0
    """Dollars for a million tokens read; 0 where it costs nothing or is not known."""
    price_out: float = 0.0
    """Dollars for a million tokens written."""

    @property
    def chat(self) -> "Chat":
        """The conversation with this endpoint; one for all parts that ask alike."""
        return _open(Endpoint(**{field.name: getattr(self, field.name) for field in fields(Endpoint)}))

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Dollars for some tokens."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@value
class Ledger:
    """What a conversation has cost so far."""

    requests: int = 0
    """Answers that the endpoint gave."""
    kept: int = 0
    """Answers that came from the file, for nothing."""
    tokens_in: int = 0
    """Tokens that the endpoint read."""
    tokens_out: int = 0
    """Tokens that it wrote."""
    dollars: float = 0.0
    """What they cost at the prices given."""


@cache
def _open(endpoint: Endpoint) -> "Chat":
    return Chat(endpoint, cache_folder() / "answers.db")


class Chat:
    """Asks one endpoint. Threads may share it.

    Arguments:
    - `endpoint`: where, and how.
    - `file`: where the answers are kept.

    Raises `Corrupt` for a file that holds something else.
    """

    def __init__(self, endpoint: Endpoint, file: Path) -> None:
        self.endpoint = endpoint
        self._file = file
        self._lock = Lock()
        self._rehearsal: list[Sequence[Message]] | None = None
        self.ledger = Ledger()
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._answers() as kept:
                kept.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"{file} does not hold answers ({error}). Delete it, and run the command again.") from None

    def _answers(self) -> Any:  # noqa: ANN401 - a connection that closes itself
        return closing(sqlite3.connect(self._file, timeout=30, isolation_level=None))

    @property
    def model(self) -> str:
        """Id of the model that answers. Raises `NotFound` where the endpoint lists none."""
        if self.endpoint.model or self._rehearsal is not None:
            return self.endpoint.model
        return self._first_model

    @cached_property
    def _first_model(self) -> str:
        listed = self._checked(lambda: self._client.models.list().data)
        if not listed:
            raise NotFound(f"{self.endpoint.url} lists no model. Name one with --model.")
        return listed[0].id

    def ask(self, messages: Sequence[Message]) -> str:
        """The answer to a conversation.

        Raises `NotFound` where nothing answers or the model is not there, `Invalid` for a key that is refused, `Conflict` where the
        endpoint fails or limits again and again, `Unscored` for a question that it refuses: too long, or filtered.
        """
        if self._rehearsal is not None:
            self._rehearsal.append(messages)
            return ""
        request = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "temperature": self.endpoint.temperature,
            "max_tokens": self.endpoint.max_tokens,
        }
        key = hashlib.sha256(json.dumps([self.endpoint.url, request]).encode()).hexdigest()
        with self._answers() as kept:
            found = kept.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        if found:
            self._count(kept=1)
            return found[0]
        done = self._checked(lambda: self._client.chat.completions.create(**request))
        text = done.choices[0].message.content if done.choices else None
        read, written = (done.usage.prompt_tokens, done.usage.completion_tokens) if done.usage else (0, 0)
        self._count(requests=1, tokens_in=read, tokens_out=written, dollars=self.endpoint.cost(read, written))
        with self._answers() as kept:
            kept.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", (key, json.dumps(request), text or "", read, written))
        return text or ""

    @contextmanager
    def rehearsed(self) -> Generator[list[Sequence[Message]]]:
        """While open, nothing is asked: the questions are gathered, and every answer is empty."""
        self._rehearsal = []
        try:
            yield self._rehearsal
        finally:
            self._rehearsal = None

    def price(self, questions: Sequence[Sequence[Message]], times: float = 1.0) -> str:
        """What some questions will cost, in words; `times` as often as they are given here."""
        letters = sum(len(message["content"]) for question in questions for message in question)
        read, written = letters / _LETTERS_PER_TOKEN * times, len(questions) * self.endpoint.max_tokens * times
        dollars = self.endpoint.cost(read, written)
        price = f"at most {dollars:,.2f} dollars" if dollars else "no price is given (--price-in, --price-out)"
        return (
            f"{len(questions) * times:,.0f} questions to {self.endpoint.url}: about {read:,.0f} tokens to read, at most {written:,.0f} to "
            f"write, {price}"
        )

    def _count(self, **more: float) -> None:
        with self._lock:
            self.ledger = Ledger(**{field.name: getattr(self.ledger, field.name) + more.get(field.name, 0) for field in fields(Ledger)})

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 - imported on first use: it takes a second
        from openai import OpenAI

        key = os.environ.get(self.endpoint.key_variable) or "none"
        return OpenAI(base_url=self.endpoint.url, api_key=key, max_retries=self.endpoint.retries, timeout=self.endpoint.timeout)

    def _checked(self, call: Callable[[], T]) -> T:
        import openai

        try:
            return call()
        except openai.OpenAIError as error:
            raise self._explained(error) from None

    def _explained(self, error: Exception) -> SaelabError:
        """The error in the user's terms."""
        import openai

        where, said = self.endpoint.url, str(getattr(error, "message", error))[:300]
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return Invalid(f"{where} refuses the key in the environment variable {self.endpoint.key_variable}: {said}")
        if isinstance(error, openai.NotFoundError):
            return NotFound(f"{where} has no model {self.endpoint.model!r}, or is no OpenAI-compatible endpoint: {said}")
        if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
            return Unscored(f"the endpoint refuses the question: {said}")
        if isinstance(error, openai.APITimeoutError):
            return Conflict(f"{where} did not answer within {self.endpoint.timeout:g} s. Give it more with --timeout, or ask less at once.")
        if isinstance(error, openai.APIConnectionError):
            return NotFound(f"Nothing answers at {where}. Start the endpoint, such as `saelab serve runs`, or give another --url.")
        again = f"What it answered is kept: run the command again, or ask less at once (--parallel, now {self.endpoint.parallel})."
        return Conflict(f"{where} failed {self.endpoint.retries + 1} times: {said}. {again}")


def spread(work: Callable[[S], T], items: Iterable[S], parallel: int) -> Iterator[tuple[S, T]]:
    """Each item with what the work makes of it, as soon as it is made; so many at once. After an error nothing new is begun."""
    if parallel <= 1:
        yield from ((item, work(item)) for item in items)
        return
    left = iter(items)
    with ThreadPoolExecutor(parallel) as threads:
        under_way: dict[Future[T], S] = {threads.submit(work, item): item for item in islice(left, parallel)}
        while under_way:
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                item = under_way.pop(future)
                yield item, future.result()
                under_way.update((threads.submit(work, other), other) for other in islice(left, 1))


def price(part: object, work: Callable[[int], object], items: Sequence[int]) -> str:
    """What it will cost, in words, to do some work for every item; empty for a part that asks no endpoint.

    Arguments:
    - `part`: what does the work, an `Endpoint` or not.
    - `work`: does it for one item; what it asks is only counted, for a few items.
    - `items`: all items.
    """
    if not isinstance(part, Endpoint) or not items:
        return ""
    some = items[:: -(-len(items) // _PRICED)]
    with part.chat.rehearsed() as questions:
        for item in some:
            with suppress(Unscored):
                work(item)
    return part.chat.price(questions, len(items) / len(some))


def spent(part: object) -> dict[str, float]:
    """The ledger of a part that asks an endpoint, as facts of a stage; empty for any other."""
    return to_dict(part.chat.ledger) if isinstance(part, Endpoint) else {}
