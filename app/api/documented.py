"""What `/docs` shows of an operation's refusals."""

from collections.abc import Iterable
from typing import Any

from app.core import exceptions as refused
from app.core.exceptions import Refusal

ALWAYS = (refused.TenantRequired, refused.Unprocessable, refused.RateLimited, refused.DatabaseAway, refused.Overloaded, refused.LimiterAway)
GUARDED = (
    refused.NotAuthenticated,
    refused.TokenInvalid,
    refused.TokenExpired,
    refused.TokenRevoked,
    refused.Forbidden,
    refused.TenantInactive,
    refused.TenantMismatch,
    refused.TenantNotFound,
)
CHANGING = (refused.Conflict,)
WITH_BODY = (refused.BadRequest, refused.RequestTimeout, refused.ContentTooLarge, refused.UnsupportedMediaType)
PAGED = (refused.InvalidCursor, refused.PageTooDeep)


def documented(*refusals: type[Refusal], guarded: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of an operation: these refusals, and those that every operation of its kind has."""
    return dict(_by_status((*ALWAYS, *(GUARDED if guarded else ()), *refusals)))


def document_the_rest(operation: dict[str, Any], method: str) -> None:
    """Add the refusals of what the OpenAPI document shows the operation to have: a body, pages, or something to change."""
    paged = any(parameter["name"] == "cursor" for parameter in operation.get("parameters", ()))
    kinds = (*(CHANGING if method != "get" and "security" in operation else ()), *(WITH_BODY if "requestBody" in operation else ()), *(PAGED if paged else ()))
    for status, more in _by_status(kinds):
        answer = operation["responses"].setdefault(str(status), more)
        if answer is not more:
            examples = answer["content"]["application/problem+json"]["examples"]
            examples |= more["content"]["application/problem+json"]["examples"]
            answer["description"] = " · ".join(f"`{code}`" for code in examples)


def _by_status(refusals: Iterable[type[Refusal]]) -> list[tuple[int | str, dict[str, Any]]]:
    by_status: dict[int, dict[str, type[Refusal]]] = {}
    for refusal in refusals:
        by_status.setdefault(refusal.status, {})[refusal.code] = refusal
    return [(status, _response(list(kinds.values()))) for status, kinds in sorted(by_status.items())]


def _response(kinds: list[type[Refusal]]) -> dict[str, Any]:
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {kind.code: _example(kind) for kind in kinds}}
    return {"description": " · ".join(f"`{kind.code}`" for kind in kinds), "content": {"application/problem+json": content}}


def _example(kind: type[Refusal]) -> dict[str, Any]:
    text = (kind.__doc__ or "").partition("\n")[0]
    problem = {"type": "about:blank", "title": kind.title(), "status": kind.status, "detail": text, "instance": "/api/v1/…", "code": kind.code}
    return {"summary": text, "value": {**problem, "request_id": "3f0e9a0b6c1d4e2f8a7b5c4d3e2f1a0b"}}
