"""What the OpenAPI document says beyond what the code says by itself."""

from typing import Any

from fastapi import FastAPI

from app.api.documented import document_the_rest
from app.schemas.common import Problem

DESCRIPTION = """
Every call below `/api/v1` belongs to one tenant, named by the header `X-Tenant-Slug`, by the subdomain, or by the header `X-Tenant-ID`.

**To try the calls here:** open `POST /api/v1/auth/login` and press *Execute*: the page then uses the token and the tenant for every other call.
**Authorize** takes another token or slug.

Errors are problem documents (RFC 9457); their `code` is stable.
"""

SECURITY_SCHEMES = {
    "bearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The access token of POST /api/v1/auth/login"},
    "tenantSlug": {"type": "apiKey", "in": "header", "name": "X-Tenant-Slug", "description": "The tenant's slug, such as acme"},
}
PUBLIC = frozenset(
    {
        *("/health", "/health/live", "/health/ready"),
        "/api/v1/auth/register",
        "/api/v1/auth/login",
        "/api/v1/auth/refresh",
        "/api/v1/auth/captcha",
        "/api/v1/auth/verify-email",
        "/api/v1/auth/verify-email/resend",
        "/api/v1/auth/password/forgot",
        "/api/v1/auth/password/reset",
    }
)


def describe(app: FastAPI) -> None:
    """Have `app.openapi()` name the security schemes, which operations need them, and the form of errors."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            components = schema.setdefault("components", {})
            components["securitySchemes"] = SECURITY_SCHEMES
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            components["schemas"] |= {**problem.pop("$defs", {}), "Problem": problem}
            show_pages(components["schemas"])
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    summarize(operation)
                    if path not in PUBLIC:
                        operation["security"] = [{"bearerAuth": [], "tenantSlug": []}]
                    document_the_rest(operation, method)
                    operation["responses"].setdefault("500", documented_500())
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema


def show_pages(schemas: dict[str, Any]) -> None:
    """Give each schema of a page the example of its items, one of them."""
    for schema in schemas.values():
        item = schema.get("properties", {}).get("items", {}).get("items", {}).get("$ref")
        if "next_cursor" in schema.get("properties", {}) and item is not None:
            example = schemas[item.rpartition("/")[2]]["example"]
            schema["example"] = {"items": [example], "page_size": 20, "has_more": False, "next_cursor": None}


def summarize(operation: dict[str, Any]) -> None:
    """Take the first sentence of the endpoint's docstring for the summary, and the rest for the description."""
    first, _, rest = operation["description"].partition(". ")
    if "\n" in first:
        first, _, rest = operation["description"].partition("\n")
    operation["summary"], operation["description"] = first.strip().rstrip("."), rest.strip()


def documented_500() -> dict[str, Any]:
    """Return what the document says of an error that nobody foresaw."""
    return {"description": "`internal_error`", "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
