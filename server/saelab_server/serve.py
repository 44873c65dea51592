"""`saelab serve`: the service and the dashboard in one process."""

import socket
from contextlib import suppress
from dataclasses import field

import uvicorn
from rich.console import Console
from tyro.conf import OmitArgPrefixes

from saelab.errors import Conflict, Invalid, NotFound
from saelab.values import value
from saelab_server.app import create_app
from saelab_server.settings import Settings


@value
class Serve:
    """Serves the dashboard and the API over a folder of runs."""

    config: OmitArgPrefixes[Settings] = field(default_factory=Settings)
    """Where and how."""

    def __call__(self) -> None:
        """Does it."""
        serve(self.config)


def serve(config: Settings) -> None:
    """Serves a folder of runs until it is interrupted.

    Raises `NotFound` without the folder, `Invalid` for a folder that is itself a run, `Conflict` where the address cannot be had.
    """
    if not config.runs.is_dir():
        raise NotFound(f"There is no folder {config.runs}. Give the folder that holds your runs, or make a first run: saelab make demo")
    if (config.runs / "read.json").is_file():
        raise Invalid(f"{config.runs} is a run itself. Give the folder that holds the runs: saelab serve {config.runs.resolve().parent}")
    listener = _listen(config.host, config.port)
    app = create_app(config)
    host = f"[{config.host}]" if ":" in config.host else config.host
    Console().print(f"saelab serves {config.runs} on http://{host}:{listener.getsockname()[1]}", highlight=False, soft_wrap=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    with suppress(KeyboardInterrupt):  # the way to end it
        server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise Invalid(f"{port} is not a port. Give --port a number from 1 to 65535, or 0 for a free one.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        way_out = f"Stop what uses it, or take another: --port {port + 1}, or --port 0 for a free one."
        raise Conflict(f"Cannot listen on {host} port {port}: {error.strerror}. {way_out}") from None
    return listener
