"""What the API's answers have in common, checked wherever a test looks at one."""

from typing import Any

from httpx import Response

PROBLEM_MEMBERS = {"type", "title", "status", "detail", "instance", "code", "request_id"}


def accepted(response: Response, status: int = 200) -> Any:
    """Check that the request was done, and return what was answered."""
    assert response.status_code == status, response.text
    return response.json() if response.content else None


def refused(response: Response, status: int, code: str) -> dict[str, Any]:
    """Check that the answer is a whole problem document (RFC 9457) with this status and code, and return it."""
    document = problem_in(response)
    assert (document["status"], document["code"]) == (status, code), response.text
    return document


def problem_in(response: Response) -> dict[str, Any]:
    """Check that the answer is a whole problem document (RFC 9457) that blames the client, and return it."""
    assert 400 <= response.status_code < 500, f"{response.status_code} {response.text[:500]}"
    assert response.headers["content-type"] == "application/problem+json", response.text[:500]
    document: dict[str, Any] = response.json()
    assert document.keys() >= PROBLEM_MEMBERS, document
    assert document["status"] == response.status_code
    assert document["request_id"] == response.headers["x-request-id"]
    assert document["title"]
    assert document["detail"]
    if response.status_code == 422:
        assert document["errors"]
        assert all(error.keys() == {"loc", "msg", "type"} for error in document["errors"])
    return document
