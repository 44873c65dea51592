"""The application: routes, errors, limits and the dashboard, put together. Nothing happens at import."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.gzip import GZipMiddleware

from saelab_server.dashboard import add_dashboard
from saelab_server.errors import add_error_handlers
from saelab_server.guard import Guard
from saelab_server.parts import embed_text, open_documents, open_features, open_work
from saelab_server.routes import activations, chat, features, figures, health, reports, runs, search, sources, steering
from saelab_server.schema import describe
from saelab_server.settings import WEB, Settings
from saelab_server.state import Embed, OpenDocuments, OpenFeatures, OpenWork, State

_ROUTERS = (runs, sources, features, search, activations, steering, figures, reports)


def create_app(
    settings: Settings | None = None,
    *,
    open_features: OpenFeatures = open_features,
    open_work: OpenWork = open_work,
    open_documents: OpenDocuments = open_documents,
    embed: Embed = embed_text,
    web: Path = WEB,
) -> FastAPI:
    """The service over the folder `settings.runs`.

    Arguments:
    - `settings`: from the environment where none are given.
    - `open_features`, `open_work`, `open_documents`: how a dictionary of a run is opened.
    - `embed`: the meaning of a text as a vector.
    - `web`: folder of the built dashboard; without one, `/` says how to build it.
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        app.state.saelab = State(settings, open_features, open_work, open_documents, embed)
        yield

    app = FastAPI(
        title="saelab",
        version="1",
        summary="Features of language models: inspect them, search them, steer with them.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts of another host
        redoc_url=None,
        generate_unique_id_function=_operation,
    )
    add_error_handlers(app)
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    app.add_middleware(Guard, hosts=(settings.host, *settings.allowed_hosts))
    app.include_router(health.router)
    for noun in _ROUTERS:
        app.include_router(noun.router, prefix="/api/v1")
    app.include_router(chat.router)
    add_dashboard(app, web)
    app.openapi = lambda: describe(app)
    return app


def _operation(route: APIRoute) -> str:
    """`features-get` for the handler `get_feature` of the noun `features`: the clients' names."""
    return f"{route.tags[0]}-{route.name.split('_')[0]}"
