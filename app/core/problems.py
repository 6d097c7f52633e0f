"""Errors on the wire: RFC 9457 problem documents, for our own refusals and for the framework's."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Scope

from app.core import exceptions
from app.core.exceptions import InternalError, Refusal, Unprocessable
from app.database import UnsafeRole
from app.database_faults import DatabaseBusy, DatabaseFault, DatabaseUnavailable, sqlstate_of
from app.utils.json import to_json

log = structlog.get_logger(__name__)

# A row that this one refers to was removed, or one with the same key added, after the endpoint had looked: foreign key, unique.
CONCURRENT_CHANGE = frozenset({"23503", "23505"})

# What a problem document says of a request that is wrong all over: enough to mend it, and not more than was sent.
MOST_ERRORS, LONGEST_TEXT = 50, 300

OF_STATUS: dict[int, type[Refusal]] = {
    refusal.status: refusal
    for refusal in (
        exceptions.BadRequest,
        exceptions.Forbidden,
        exceptions.NotFound,
        exceptions.MethodNotAllowed,
        exceptions.RequestTimeout,
        exceptions.ContentTooLarge,
        exceptions.UnsupportedMediaType,
        exceptions.Unprocessable,
    )
}


def problem(refusal: Refusal, scope: Scope) -> Response:
    """Return the response to a refused request."""
    document = {
        "type": "about:blank",
        "title": refusal.title(),
        "status": refusal.status,
        "detail": refusal.detail,
        "instance": _short(scope.get("path", "")),
        "code": refusal.code,
        "request_id": scope.get("state", {}).get("request_id"),
        **refusal.extensions,
    }
    return Response(to_json(document), refusal.status, refusal.headers, "application/problem+json")


def refusal_of(error: Exception) -> Refusal | None:
    """Return what to tell the client about an error; None for one that nobody foresaw."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestValidationError):
        return _unprocessable(error.errors())
    if isinstance(error, HTTPException):
        kind = OF_STATUS.get(error.status_code, exceptions.BadRequest)
        detail = "This body cannot be read as JSON." if error.status_code == HTTPStatus.BAD_REQUEST else None
        return kind(detail, headers=dict(error.headers or {}))
    return _database_refusal(error)


def _database_refusal(error: Exception) -> Refusal | None:
    if isinstance(error, DatabaseBusy):
        return exceptions.Overloaded()
    if isinstance(error, DatabaseFault):
        return exceptions.DatabaseAway()
    if isinstance(error, UnsafeRole):
        return exceptions.DatabaseAway("The database is not set up as it has to be, and is not used until it is.")
    if isinstance(error, IntegrityError) and sqlstate_of(error) in CONCURRENT_CHANGE:
        return exceptions.Conflict()
    return None


def answer(error: Exception, scope: Scope) -> Response:
    """Return the response to any error, and log those that are ours to mend. Shows no stack trace, SQL or secret."""
    refusal = refusal_of(error)
    if refusal is None:
        log.error("unhandled error", exc_info=error)
        refusal = InternalError()
    elif isinstance(error, UnsafeRole):
        log.error("unsafe database role", error=str(error))
    elif isinstance(error, DatabaseFault):
        log.warning("database fault", error=str(error), cause=type(error.__cause__).__name__)
    return problem(refusal, scope)


def install(app: FastAPI) -> None:
    """Have the application answer its own and the framework's errors as problem documents."""

    async def handler(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            error = HTTPException(error.status_code, headers={"Allow": ", ".join(allowed_methods(app, request.url.path))})
        return answer(error, request.scope)

    # Not TransactionConflict: the route runs the whole request again first.
    for kind in (Refusal, DatabaseBusy, DatabaseUnavailable, IntegrityError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handler)


def allowed_methods(app: FastAPI, path: str) -> list[str]:
    """Return all methods of a path, sorted. The router itself names only those of the first route that it meets."""
    routes = [route for route in app.routes if isinstance(route, Route | Mount) and route.path_regex.match(path)]
    # What is mounted are files.
    methods = {method for route in routes for method in (route.methods or () if isinstance(route, Route) else ("GET",))}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _unprocessable(errors: Sequence[Any]) -> Unprocessable:
    """Return the refusal that says what was wrong and where, without the input: it may be a password."""
    shown = [
        {"loc": [_short(part) if isinstance(part, str) else part for part in each["loc"]], "msg": _short(each["msg"]), "type": each["type"]}
        for each in errors[:MOST_ERRORS]
    ]
    which = "each" if len(errors) == len(shown) else f"the first {len(shown)} of {len(errors)}"
    return Unprocessable(f"A value in the request is not acceptable; `errors` names {which}.", errors=shown)


def _short(text: str) -> str:
    """Return a text that can be written as UTF-8, and is not as long as a client can make it: a key of the body may hold a lone surrogate."""
    short = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    return short.encode("utf-8", "replace").decode()
