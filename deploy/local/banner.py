"""What is printed when everything is ready."""

import json

from app.services.demo import DEMO_PASSWORD, DEMO_SLUG, DEMO_USERS


def banner(url: str, *, demo: bool) -> str:
    """Return where the service is, whom to log in as, and a command to paste."""
    lines = ["", f"  Ready: {url}", f"  Docs:  {url}/docs", ""]
    if demo:
        lines += [
            f"  Tenant {DEMO_SLUG}, password {DEMO_PASSWORD}:",
            *(f"    {user.email:<20} {user.role}" for user in DEMO_USERS),
            "",
            "  Try it in another terminal:",
            "",
            projects_command(url),
            "",
        ]
    return "\n".join([*lines, "  Ctrl-C stops everything; the data stays. 'make clean' forgets it.", ""])


def projects_command(url: str) -> str:
    """Return a shell command, in one line, that logs in and lists the projects. It needs curl and sed alone."""
    body = json.dumps({"email": DEMO_USERS[0].email, "password": DEMO_PASSWORD, "tenant_slug": DEMO_SLUG})
    login = f"curl -s {url}/api/v1/auth/login -H 'Content-Type: application/json' -d '{body}'"
    token = f"""$({login} | sed -E 's/.*"access_token": *"([^"]*)".*/\\1/')"""
    return f"curl -s {url}/api/v1/projects -H 'X-Tenant-Slug: {DEMO_SLUG}' -H \"Authorization: Bearer {token}\""
