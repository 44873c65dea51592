"""Errors as answers: RFC 9457 problem documents, one table from the library's errors to statuses."""

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from saelab.errors import Conflict, Corrupt, Invalid, NotFound, SaelabError, Unscored
from saelab.values import to_json, value

log = logging.getLogger("saelab_server")


class Busy(SaelabError):
    """The model is at work for others for longer than a request waits."""


STATUS: dict[type[SaelabError], int] = {
    NotFound: 404,
    Conflict: 409,
    Invalid: 422,
    Unscored: 422,
    Corrupt: 500,
    Busy: 503,
}
"""The status of each error of the library."""

PROBLEM = "application/problem+json"
_UNEXPECTED = "The service failed in a way that it did not expect. Its log has the details."


@value
class Problem:
    """What went wrong with a request (RFC 9457)."""

    type: str
    """What kind of problem it is: `urn:saelab:not-found`, or `about:blank` where the status says all."""
    title: str
    """The kind in words."""
    status: int
    """The HTTP status."""
    detail: str
    """What was wrong, what was expected, and how to mend it."""
    instance: str
    """The path that was asked for."""


def problem_of(error: BaseException, path: str) -> Problem:
    """The problem document of an error. Anything but a `SaelabError` is logged, and not told to the client."""
    kind = next((known for known in STATUS if isinstance(error, known)), None)
    if kind is None:
        log.error("Unexpected error at %s", path, exc_info=error)
        return plain_problem(500, _UNEXPECTED, path)
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).strip()
    return Problem(
        type=f"urn:saelab:{words.replace(' ', '-')}", title=words.capitalize(), status=STATUS[kind], detail=str(error), instance=path
    )


def plain_problem(status: int, detail: str, path: str) -> Problem:
    """A problem that its HTTP status names."""
    return Problem(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail, instance=path)


def answer(problem: Problem) -> Response:
    """The problem as an HTTP answer."""
    return Response(to_json(problem), problem.status, media_type=PROBLEM)


def add_error_handlers(app: FastAPI) -> None:
    """Makes the application answer every error with a problem document."""

    async def known(request: Request, error: Exception) -> Response:
        return answer(problem_of(error, request.url.path))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(problem_of(Invalid(_explain(error)), request.url.path))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = f"{request.method} {request.url.path}: {error.detail}. The paths are listed in /openapi.json."
        response = answer(plain_problem(error.status_code, detail, request.url.path))
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(SaelabError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, known)


def _explain(error: RequestValidationError) -> str:
    """One line a field: `body.max_tokens: input should be a valid integer`."""
    lines = ["The request is not valid."]
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        unknown = item["type"] == "unexpected_keyword_argument"
        lines.append(f"{place}: {'is not a known field' if unknown else item['msg'][0].lower() + item['msg'][1:]}.")
    return " ".join(lines)
