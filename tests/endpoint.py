"""A small OpenAI-compatible endpoint on a free port, which answers as told; an oracle that reads labels literally, and one who guesses."""

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from random import Random
from types import SimpleNamespace
from typing import Any

import planted
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

_WORD = re.compile(r"“(.*?)”")
_LAW = {word.strip().lower() for word in planted.LAW}
_MARKED = re.compile(r"<<(.*?)>>")


@contextmanager
def serving(answer: Callable[[list[dict[str, str]]], str | tuple[int, str]]) -> Generator[SimpleNamespace]:
    """While open, an endpoint answers with what the function makes of the messages: a text, or a status with a message.

    Gives its `url`, the `requests` that it got, and how many it worked on at once at `most`.
    """
    seen = SimpleNamespace(url="", requests=[], most=0, at_once=0, lock=threading.Lock())
    app = FastAPI()

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "oracle", "object": "model", "created": 0, "owned_by": "tests"}]}

    @app.post("/v1/chat/completions")
    def complete(request: dict[str, Any], http: Request) -> JSONResponse:
        with seen.lock:
            seen.requests.append({**request, "authorization": http.headers.get("authorization")})
            seen.at_once += 1
            seen.most = max(seen.most, seen.at_once)
        found = answer(request["messages"])
        with seen.lock:
            seen.at_once -= 1
        if isinstance(found, tuple):
            return JSONResponse({"error": {"message": found[1]}}, found[0], headers={"retry-after-ms": "1"})
        choice = {"index": 0, "message": {"role": "assistant", "content": found}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        return JSONResponse({"id": "1", "object": "chat.completion", "created": 0, "model": "oracle", "choices": [choice], "usage": usage})

    listener = socket.create_server(("127.0.0.1", 0))
    seen.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield seen
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def oracle(messages: list[dict[str, str]]) -> str:
    """Answers every prompt of labellers and scorers by the words in quotation marks that a label names."""
    asked = messages[-1]["content"]
    if asked.startswith("Active:"):
        marked = Counter(word.strip().lower() for word in _MARKED.findall(asked))
        return f"Let me see.\nLABEL: the token “{marked.most_common(1)[0][0]}”"
    label, _, rest = asked.removeprefix("Label: ").partition("\n\n")
    if rest.startswith("Texts:"):
        return json.dumps([10 * _holds(label, line) for line in rest.splitlines()[1:] if re.match(r"\d+\. ", line)])
    if rest.startswith("Tokens:"):
        tokens = [line.partition(". ")[2].strip("'").strip().lower() for line in rest.splitlines()[1:] if re.match(r"\d+\. ", line)]
        return json.dumps([10 * (token in _WORD.findall(label)) for token in tokens])
    if "\nA: " in asked:
        texts, _, labels = asked.partition("\nA: ")
        first, _, second = labels.partition("\nB: ")
        return "A" if _times(first, texts) > _times(second, texts) else "B"
    return str(_odd(asked.splitlines()))


def guesser(messages: list[dict[str, str]]) -> str:
    """Answers every prompt of scorers in the right form, and at random: the same question always alike."""
    asked = messages[-1]["content"]
    random = Random(asked)
    count = re.search(r"JSON array of (\d+) numbers", asked)
    if count:
        return json.dumps([random.randint(0, 10) for _ in range(int(count[1]))])
    return random.choice("AB" if "\nA: " in asked else "12345")


def _holds(label: str, line: str) -> bool:
    return any(word in text.lower().split() for word in _WORD.findall(label) for text in (_MARKED.findall(line) or [line]))


def _times(label: str, texts: str) -> int:
    return sum(" ".join(_MARKED.findall(texts)).lower().split().count(word) for word in _WORD.findall(label))


def _odd(lines: list[str]) -> int:
    """The line with the fewest words of law."""
    return 1 + min(range(len(lines)), key=lambda row: len(_LAW & set(lines[row].lower().split())))
