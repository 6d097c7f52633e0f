"""What `/docs` shows of an operation's refusals."""

from typing import Any

from app.core.exceptions import Forbidden, NotAuthenticated, RateLimited, Refusal, TenantNotFound, TenantRequired, Unavailable, Unprocessable

ALWAYS = (TenantRequired, TenantNotFound, Unprocessable, RateLimited, Unavailable)
GUARDED = (NotAuthenticated, Forbidden)


def documented(*refusals: type[Refusal], guarded: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of an operation: these refusals, and those that every operation of its kind has."""
    by_status: dict[int | str, dict[str, type[Refusal]]] = {}
    for refusal in (*ALWAYS, *(GUARDED if guarded else ()), *refusals):
        by_status.setdefault(refusal.status, {})[refusal.code] = refusal
    return {status: _response(list(kinds.values())) for status, kinds in sorted(by_status.items(), key=lambda item: int(item[0]))}


def _response(kinds: list[type[Refusal]]) -> dict[str, Any]:
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {kind.code: _example(kind) for kind in kinds}}
    return {"description": " · ".join(f"`{kind.code}`" for kind in kinds), "content": {"application/problem+json": content}}


def _example(kind: type[Refusal]) -> dict[str, Any]:
    text = (kind.__doc__ or "").partition("\n")[0]
    problem = {"type": "about:blank", "title": kind.title(), "status": kind.status, "detail": text, "instance": "/api/v1/…", "code": kind.code}
    return {"summary": text, "value": {**problem, "request_id": "3f0e9a0b6c1d4e2f8a7b5c4d3e2f1a0b"}}
