"""The outer wall: refuses foreign Host headers and huge bodies, and says to browsers what pages may do and what they may keep."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saelab_server.errors import Problem, answer, plain_problem

POLICY = "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
"""What pages may load: nothing of other hosts, no inline script or style. Plotly saves pictures as data."""

_MAX_BODY = 1 << 20


class Guard:
    """Middleware around the whole application.

    A page of another site can make a browser send requests here under that site's name (DNS rebinding), so only our own names are
    answered.

    Arguments:
    - `app`: the application.
    - `hosts`: names under which the service is reached, beside localhost; `*` for any.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self._app = app
        self._hosts = {"localhost", "127.0.0.1", "::1", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _protect(MutableHeaders(scope=message), scope["path"], message["status"])
            await send(message)

        headers = MutableHeaders(scope=scope)
        if scope["path"].startswith("/api"):
            headers["accept"] = "application/json"  # what a browser mistypes under /api is an error, not the page
        refusal = self._refusal(headers, scope["path"])
        await (answer(refusal) if refusal else self._app)(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers, path: str) -> Problem | None:
        host = headers.get("host", "")
        if not self._knows(host):
            return plain_problem(400, f"This service does not answer to the name {host!r}. Start it with --allowed-hosts to let it.", path)
        if "transfer-encoding" in headers:
            return plain_problem(411, "The request does not say how long it is. Send it with a Content-Length.", path)
        if int(headers.get("content-length", "0")) > _MAX_BODY:
            return plain_problem(413, f"The request is too large: {_MAX_BODY:,} bytes may be sent at once.", path)
        return None

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return "*" in self._hosts or name in self._hosts


def _protect(headers: MutableHeaders, path: str, status: int) -> None:
    headers["Content-Security-Policy"] = POLICY
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"
    if path.startswith("/assets/") and status < 400:
        headers["Cache-Control"] = "public, max-age=31536000, immutable"
    else:
        headers.setdefault("Cache-Control", "no-cache")
