"""Whether the hub answers: quickly found out, and without it the hub's libraries look at this disk alone."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from saelab.errors import NotFound
from saelab.hub import answers, hub
from saelab.interop.hub import download
from saelab.subject import Subject, SubjectConfig
from saelab.texts.hub import Hub


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy of this machine."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nobody():
    """An address at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def silent():
    """An address at which a connection is taken and nothing said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing():
    """A server that answers every request with an error; and what it was asked for."""
    asked: list[str] = []

    class Refuse(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_an_error_is_an_answer_and_silence_is_none(nobody, silent, refusing):
    assert answers(refusing[0])
    assert not answers(nobody)
    assert not answers("no address at all")
    began = time.monotonic()
    assert not answers(silent, patience=0.2)
    assert time.monotonic() - began < 1


def test_a_proxy_is_asked_in_the_hubs_place(monkeypatch, refusing):
    address, asked = refusing
    monkeypatch.setenv("http_proxy", address)
    assert answers("http://hub.invalid")
    assert asked == ["http://hub.invalid"]


def test_the_hubs_libraries_are_told_only_while_it_is_needed(monkeypatch, nobody, refusing):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for address, offline in ((nobody, True), (refusing[0], False)):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with hub():
            assert offline is constants.HF_HUB_OFFLINE
        assert constants.HF_HUB_OFFLINE is False
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(refusing[1])
    with hub():
        assert constants.HF_HUB_OFFLINE is True
    assert len(refusing[1]) == asked


@pytest.mark.filterwarnings("ignore")  # of libraries that datasets imports
@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: Subject.load(SubjectConfig(model="nobody/no-such-model")), "neither a directory"),
        (lambda: next(Hub(name="nobody/no-such-set").documents()), "cannot be reached"),
        (lambda: download("nobody/no-such-sae", "layer_3"), "copy it here"),
    ],
)
def test_what_only_a_hub_could_give_is_refused_at_once_where_it_does_not_answer(monkeypatch, nobody, ask, said):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    began = time.monotonic()
    with pytest.raises(NotFound, match=said):
        ask()
    assert time.monotonic() - began < 10
