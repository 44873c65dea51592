"""`saelab serve`: what it refuses, and that it serves."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import tyro

from saelab.errors import Conflict, Invalid, NotFound
from saelab_server.serve import serve
from saelab_server.settings import Settings

SERVE = """
import pathlib, sys
from saelab_server.serve import Serve
from saelab_server.settings import Settings
Serve(config=Settings(runs=pathlib.Path(sys.argv[1]), port=0))()
"""


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(NotFound, match="saelab make demo"):
        serve(Settings(runs=tmp_path / "none"))


def test_a_run_in_place_of_the_folder_is_refused_with_the_right_command(runs):
    with pytest.raises(Invalid, match=re.escape(f"saelab serve {runs}")):
        serve(Settings(runs=runs / "demo"))


def test_a_port_in_use_is_refused_with_a_way_out(runs):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Conflict, match=r"in use.*--port"):
        serve(Settings(runs=runs, port=taken.getsockname()[1]))


def test_a_host_that_is_not_ours_is_refused(runs):
    with pytest.raises(Conflict, match=r"203\.0\.113\.1"):
        serve(Settings(runs=runs, host="203.0.113.1"))


def test_a_number_that_is_no_port_is_refused(runs):
    with pytest.raises(Invalid, match="70000"):
        serve(Settings(runs=runs, port=70000))


def test_settings_come_from_flags_then_variables_then_defaults(monkeypatch):
    monkeypatch.setenv("SAELAB_PORT", "9001")
    monkeypatch.setenv("SAELAB_HOST", "0.0.0.0")
    monkeypatch.setenv("SAELAB_ALLOWED_HOSTS", "a.example b.example")
    settings = tyro.cli(Settings, args=["some/runs", "--port", "9002"])
    assert (str(settings.runs), settings.host, settings.port) == ("some/runs", "0.0.0.0", 9002)
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert settings.max_tokens == 512


def test_a_variable_that_is_no_number_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("SAELAB_PORT", "http")
    with pytest.raises(Invalid, match="SAELAB_PORT is 'http'"):
        Settings()


def test_the_service_prints_its_address_answers_and_ends_on_interrupt(runs):
    environ = {**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-c", SERVE, str(runs)], stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            line = process.stdout.readline()
            port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line).group(1))
            with socket.create_connection(("127.0.0.1", port), timeout=20) as talk:
                talk.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                talk.settimeout(20)
                answer = b"".join(iter(lambda: talk.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b'{"status":"ok"}')
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
