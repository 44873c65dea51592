"""The built dashboard as static files: any page's path answers with the one page, and its script draws it."""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import HTMLResponse

_UNBUILT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>saelab</title></head>
<body><h1>saelab</h1>
<p>The service runs, but the dashboard is not built. Build it in the checkout and start the service again:</p>
<pre>make web</pre>
<p>The API works without it: <a href="/api/v1/runs">/api/v1/runs</a>, described in <a href="/openapi.json">/openapi.json</a>.</p>
</body></html>
"""


def add_dashboard(app: FastAPI, web: Path) -> None:
    """Serves the folder `web`, last of all routes; where it is not built, a page that says how to."""
    if (web / "index.html").is_file():
        app.frontend("/", directory=web, fallback="index.html")
    else:

        @app.get("/", tags=["dashboard"], include_in_schema=False)
        def unbuilt() -> HTMLResponse:
            return HTMLResponse(_UNBUILT)
