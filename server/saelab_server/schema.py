"""The description of the API as an OpenAPI document."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from saelab_server.errors import PROBLEM, Problem

_REFERENCE = "#/components/schemas/"


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: what FastAPI finds, with problem documents as the answer to every error."""
    found = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    problem = {"description": "What went wrong.", "content": {PROBLEM: {"schema": {"$ref": _REFERENCE + "Problem"}}}}
    for path in found["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = problem
            events = operation["responses"]["200"]["content"].get("text/event-stream")
            if events:
                events["schema"].pop("type")  # FastAPI takes every answer but JSON for a bare string
    schemas = found["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = TypeAdapter(Problem).json_schema(mode="serialization", ref_template=_REFERENCE + "{model}")
    found["components"]["schemas"] = dict(sorted(schemas.items()))
    return found
