"""Steering as server-sent events: frames, errors half-way, and what a disconnect stops."""

import asyncio
import json
import threading
import time

import pytest
from service_doubles import BASE, MODEL, SOURCE, STEER

from saelab.errors import Conflict
from saelab.records import SteerRequest
from saelab.values import from_dict
from saelab_server.session import Session
from saelab_server.streaming import Worker, events


def frames(response):
    """(event, data) of each frame, by the rules of the HTML standard."""
    assert response.headers["content-type"].startswith("text/event-stream")
    for block in response.text.replace("\r\n", "\n").split("\n\n"):
        lines = [line.partition(": ")[::2] for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            yield dict(lines)["event"], json.loads("\n".join(value for key, value in lines if key == "data"))


def test_tokens_come_as_events_and_the_completion_last(client, work):
    response = client.post(f"{BASE}/steer/stream", json=STEER)
    *tokens, (last, completion) = frames(response)
    assert [event for event, _ in tokens] == ["token"] * 8
    assert tokens[0][1] == {"text": "base", "token": " \n0", "id": 0}
    assert (last, completion["steered"]) == ("completion", "b")
    assert response.headers["cache-control"] == "no-store"
    assert len(work.threads) == 1
    assert threading.get_ident() not in work.threads


def test_a_failure_half_way_is_the_last_event(client, work):
    work.failure = Conflict("The model went away.")
    *tokens, (last, problem) = frames(client.post(f"{BASE}/steer/stream", json=STEER))
    assert [event for event, _ in tokens] == ["token", "token"]
    assert (last, problem["status"], problem["detail"]) == ("error", 409, "The model went away.")
    assert problem["instance"] == f"{BASE}/steer/stream"


def test_an_unexpected_failure_half_way_is_logged_and_not_told(client, work, caplog):
    work.failure = RuntimeError("secret path")
    *_, (last, problem) = frames(client.post(f"{BASE}/steer/stream", json=STEER))
    assert (last, problem["status"]) == ("error", 500)
    assert "secret" not in problem["detail"]
    assert "secret path" in caplog.text


def test_a_model_busy_for_too_long_is_an_error_event(client, work):
    """Another request takes the turn between the check and the generation."""
    with client.app.state.saelab.turn(MODEL):
        session = Session(client.app.state.saelab, client.app.state.saelab.source(MODEL, SOURCE))
        request = from_dict(SteerRequest, STEER)

        async def read():
            return [event async for event in events(session.stream_steer(request), "/here")]

        (event,) = asyncio.run(read())
    assert event.event == "error"
    assert json.loads(event.data)["status"] == 503


async def _asgi(app, body, until):
    """One POST spoken to the application itself; disconnects as soon as `until` says so of the sent messages."""
    sent, gone = [], asyncio.Event()
    asked = False

    async def receive():
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if until(sent):
            gone.set()

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    path = f"{BASE}/steer/stream"
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "path": path}
    scope |= {"raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers, "client": None, "server": None}
    await asyncio.wait_for(app(scope, receive, send), 10)
    return sent


def test_a_disconnect_cancels_the_generation_and_gives_the_turn_back(make_client, work):
    work.pause = threading.Event()
    client = make_client()

    async def talk():
        async with client.app.router.lifespan_context(client.app):
            timer = threading.Timer(0.2, work.pause.set)
            timer.start()
            await _asgi(client.app, STEER | {"max_tokens": 50}, until=lambda sent: any(b"token" in m.get("body", b"") for m in sent))
            assert await asyncio.to_thread(work.closed.wait, 5)
            assert await asyncio.to_thread(lambda: client.app.state.saelab._turns[MODEL].acquire(timeout=5))

    original = work.stream_steer

    def slowly(request):
        for item in original(request):
            yield item
            time.sleep(0.02)

    work.stream_steer = slowly
    asyncio.run(talk())
    assert 0 < work.made < 50


def test_leaving_a_worker_early_closes_its_generator_in_its_own_thread():
    seen, closed = [], threading.Event()

    def numbers():
        try:
            for number in range(1000):
                seen.append(threading.get_ident())
                yield number
                time.sleep(0.001)
        finally:
            seen.append(threading.get_ident())
            closed.set()

    async def read():
        items = Worker(numbers()).items()
        assert await anext(items) == 0
        await items.aclose()
        assert await asyncio.to_thread(closed.wait, 5)

    asyncio.run(read())
    assert len(seen) < 1000
    assert len(set(seen)) == 1


def test_a_worker_keeps_the_error_of_its_generator():
    def one():
        yield 1
        raise ValueError("no second")

    async def read():
        worker = Worker(one())
        return [item async for item in worker.items()], worker.error

    items, error = asyncio.run(read())
    assert items == [1]
    with pytest.raises(ValueError, match="no second"):
        raise error
