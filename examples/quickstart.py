"""A first walk through the API: make a tenant, log in, create and list, and be refused another tenant's data.

Needs Python alone, and a running service (`make run`):

    python3 examples/quickstart.py [http://127.0.0.1:8000]

The address may also be in the environment variable SAAS_URL. Each run makes a tenant of its own, so it can be run again.
"""

import json
import os
import secrets
import sys
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

DEFAULT_URL = "http://127.0.0.1:8000"
SECONDS_PER_CALL = 30


class Unexpected(Exception):
    """The service did not answer as this walk expects."""


@dataclass(frozen=True)
class Answer:
    """What the service answered: the status, and the JSON document."""

    status: int
    body: Any


@dataclass(frozen=True)
class Client:
    """Calls the API, as one user of one tenant once it has a token and a slug."""

    base_url: str
    token: str | None = None
    tenant_slug: str | None = None

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, *, expect: int) -> Answer:
        """Return the answer. Raises `Unexpected` for another status than the one expected, `URLError` when nobody answers."""
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.tenant_slug is not None:
            headers["X-Tenant-Slug"] = self.tenant_slug
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.base_url}/api/v1{path}", data, headers, method=method)  # noqa: S310 (the address is the caller's own)
        try:
            with urlopen(request, timeout=SECONDS_PER_CALL) as response:  # noqa: S310 (as above)
                answer = Answer(response.status, _json(response.read()))
        except HTTPError as refusal:
            with refusal:
                answer = Answer(refusal.code, _json(refusal.read()))
        if answer.status != expect:
            raise Unexpected(f"{method} {path} was to answer {expect}, and answered {answer.status}: {_reason(answer.body)}")
        return answer


def walk(base_url: str) -> None:
    """Take the walk, and print each step. Raises `Unexpected` and `URLError`."""
    visitor = Client(base_url)
    ours, theirs = (f"quickstart-{secrets.token_hex(4)}" for _ in range(2))
    email, password = "ada@example.com", secrets.token_urlsafe(16)

    for slug in (ours, theirs):
        person = {"email": email, "password": password, "full_name": "Ada Example", "tenant_slug": slug}
        user = visitor.call("POST", "/auth/register", person, expect=201).body
        say(f"Registered the tenant {slug}; {user['email']} is its {user['role']}.")

    login = visitor.call("POST", "/auth/login", {"email": email, "password": password, "tenant_slug": ours}, expect=200).body
    us = Client(base_url, token=login["access_token"], tenant_slug=ours)
    say(f"Logged in to {ours}; the token is good for {login['expires_in'] // 60} minutes.")

    renewed = visitor.call("POST", "/auth/refresh", {"refresh_token": login["refresh_token"]}, expect=200).body
    us = Client(base_url, token=renewed["access_token"], tenant_slug=ours)
    say(f"Refreshed the session: a new pair of tokens, and {renewed['refresh_expires_in'] // 86_400} days more. Each refresh token is good once.")

    project = us.call("POST", "/projects", {"name": "Website", "description": "The new one"}, expect=201).body
    say(f"Created the project {project['name']!r}, which is {project['status']}.")

    new = {"project_id": project["id"], "name": "Home page", "type": "page", "data": {"path": "/", "languages": ["en", "de"]}}
    resource = us.call("POST", "/resources", new, expect=201).body
    say(f"Added the resource {resource['name']!r} to it, with the data {json.dumps(resource['data'])}.")

    for noun in ("projects", "resources"):
        items = us.call("GET", f"/{noun}", expect=200).body["items"]
        say(f"Listed the {noun}: " + ", ".join(item["name"] for item in items) + ".")

    stranger = Client(base_url, token=us.token, tenant_slug=theirs)
    refusal = stranger.call("GET", "/projects", expect=403).body
    say(f"Asked for {theirs}'s projects with that token, and was refused: 403 {refusal['code']}.")

    print(f"\nThat is all. Go on at {base_url}/docs, as {email} of {ours} with the password {password}")


def say(step: str) -> None:
    """Print a step that has succeeded."""
    print(f"* {step}")


def main() -> None:
    """Take the walk at the address of the command line; end with a sentence and status 1 where it fails."""
    base_url = (sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SAAS_URL") or DEFAULT_URL).rstrip("/")
    try:
        walk(base_url)
    except Unexpected as problem:
        sys.exit(f"{problem}")
    except (URLError, OSError) as problem:
        sys.exit(f"{base_url} cannot be reached ({getattr(problem, 'reason', problem)}). Is the service running? `make run` starts it.")
    except ValueError as problem:
        sys.exit(f"{base_url} is not the address of the service: {problem}")


def _json(content: bytes) -> Any:
    return json.loads(content) if content else None


def _reason(body: Any) -> str:
    return f"{body.get('code')}: {body.get('detail')}" if isinstance(body, dict) else "no problem document"


if __name__ == "__main__":
    main()
