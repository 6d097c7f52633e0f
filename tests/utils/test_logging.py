"""Logs: one line a request, of JSON in production, and never a secret."""

import asyncio
import io
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from select import PIPE_BUF
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from app.config import Settings
from app.core.security import Claims
from app.utils import logging as our_logging
from app.utils.logging import REDACTED, RequestLines, configure_logging, is_secret, log_request, request_state
from tests.conftest import clone_database, worker_number
from tests.factories import PASSWORD, Factory
from tests.faults.support import PATIENCE, ServerProcess, changed, environment_of, eventually

FAILING_SERVER = '''
import typer
from fastapi import Request
from app.api.deps import AsMember
from app.main import app
from app.schemas.common import Body
from app.server import main

class Secrets(Body):
    password: str
    note: str

@app.post("/api/v1/test/crash")
async def crash(body: Secrets, request: Request, ctx: AsMember) -> None:
    """Fail with everything secret at hand."""
    authorization, password = request.headers["authorization"], body.password
    raise RuntimeError("unforeseen")

typer.run(main)
'''


# ─── Lines ───────────────────────────────────────────────────────────────────────────────────────────────────────────


Lines = Callable[[], list[str]]
Configure = Callable[..., Lines]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Set up logging anew, and give a function that returns the lines written since. Put back afterwards."""
    before = structlog.get_config()
    monkeypatch.setattr(our_logging, "_request_lines", None)
    handlers, level_before = logging.getLogger().handlers[:], logging.getLogger().level

    def set_up(log_format: str, level: str = "INFO") -> Lines:
        buffer = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="utf-8", write_through=True))
        configure_logging(log_format, level)
        return lambda: buffer.getvalue().decode().splitlines()

    yield set_up
    structlog.configure(**before)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level_before)


def test_a_line_is_one_json_object_with_time_and_level(configure: Configure) -> None:
    lines = configure("json", "INFO")
    structlog.get_logger("test").info("something\nhappened", answer=42, id=uuid4())
    (line,) = lines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["answer"]) == ("something\nhappened", "info", 42)
    assert event["timestamp"].endswith("Z")


def test_lines_of_libraries_have_the_same_form(configure: Configure) -> None:
    lines = configure("json", "INFO")
    logging.getLogger("some.library").warning("a %s", "warning")
    (line,) = lines()
    assert json.loads(line)["event"] == "a warning"
    assert json.loads(line)["level"] == "warning"


def test_what_is_below_the_level_is_not_written(configure: Configure) -> None:
    lines = configure("json", "WARNING")
    structlog.get_logger("test").info("no")
    logging.getLogger("some.library").info("no")
    assert lines() == []


def test_for_a_person_at_a_terminal_lines_are_no_json(configure: Configure) -> None:
    lines = configure("console", "INFO")
    structlog.get_logger("test").info("hello", answer=42)
    (line,) = lines()
    assert "hello" in line
    with pytest.raises(ValueError, match=r"Expecting|Extra"):
        json.loads(line)


def test_where_nobody_reads_along_lines_are_json(configure: Configure) -> None:
    lines = configure("auto", "INFO")
    structlog.get_logger("test").info("hello")
    assert json.loads(lines()[0])["event"] == "hello"


@pytest.mark.parametrize("name", ["password", "new_password", "access_token", "refresh_token", "SECRET_KEY", "Authorization", "Set-Cookie", "otp"])
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_values_whose_name_is_secret_are_blanked_out(configure: Configure, log_format: str, name: str) -> None:
    lines = configure(log_format, "INFO")
    structlog.get_logger("test").info("hello", **{name: "swordfish"})
    assert "swordfish" not in "".join(lines())
    assert REDACTED in "".join(lines())


def test_every_line_of_a_request_says_which_request_tenant_and_user(configure: Configure) -> None:
    lines = configure("json", "INFO")
    user = uuid4()

    class Acme:
        slug = "acme"

    state: dict[str, Any] = {"request_id": "abc"}
    token = request_state.set(state)
    structlog.get_logger("test").info("early")
    state |= {"tenant": Acme(), "claims": Claims(user, uuid4(), uuid4(), "admin", 0)}
    logging.getLogger("some.library").warning("late")
    request_state.reset(token)
    structlog.get_logger("test").info("outside")
    early, late, outside = map(json.loads, lines())
    assert early["request_id"] == "abc"
    assert "tenant" not in early
    assert (late["request_id"], late["tenant"], late["user_id"]) == ("abc", "acme", str(user))
    assert "request_id" not in outside


REQUEST = {"method": "GET", "path": '/a "path" é\t', "status": 200, "duration_ms": 1.234}


def log_one_request(state: dict[str, Any]) -> None:
    token = request_state.set(state)
    log_request(*REQUEST.values())  # type: ignore[arg-type]  # in order
    structlog.get_logger("request").info("request", **REQUEST)
    request_state.reset(token)


@pytest.mark.parametrize("signed_in", [True, False])
async def test_the_line_of_a_request_is_what_structlog_would_write(configure: Configure, signed_in: bool) -> None:
    """It does not go through structlog's processors, and nobody must be able to tell."""
    lines = configure("json", "INFO")
    caller = {"tenant": SimpleNamespace(slug="acme"), "claims": Claims(uuid4(), uuid4(), uuid4(), "admin", 0)}
    log_one_request({"request_id": "abc", **(caller if signed_in else {})})
    await asyncio.sleep(0)
    # What structlog writes is there at once; the lines of requests when the event loop goes on.
    usual, direct = map(json.loads, lines())
    times = [datetime.fromisoformat(line.pop("timestamp")) for line in (direct, usual)]
    assert direct == usual
    assert direct.items() >= {**REQUEST, "event": "request", "level": "info", "request_id": "abc"}.items()
    assert ({"tenant", "user_id"} <= set(direct)) == signed_in
    assert not any(is_secret(name) for name in direct)
    assert timedelta(0) <= times[1] - times[0] < timedelta(seconds=5)


async def test_requests_that_end_in_one_turn_of_the_event_loop_are_written_together_each_in_a_line_of_its_own() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as there, os.fdopen(writing, "wb") as here:
        lines = RequestLines(here)
        for number in range(3):
            lines.add(b'{"number": %d}' % number)
        await asyncio.sleep(0)
        lines.add(b"{}")
        await asyncio.sleep(0)
        assert there.read(PIPE_BUF) == b'{"number": 0}\n{"number": 1}\n{"number": 2}\n{}\n'


@given(st.lists(st.integers(0, PIPE_BUF + 100), min_size=1, max_size=50))
def test_whole_lines_are_written_in_pieces_that_a_pipe_takes_as_one(lengths: list[int]) -> None:
    written: list[bytes] = []

    class File(io.BytesIO):
        def write(self, data: bytes) -> int:  # type: ignore[override]  # bytes are all that is written
            written.append(data)
            return len(data)

    async def log() -> None:
        lines = RequestLines(File())
        for length in lengths:
            lines.add(b"x" * length)
        await asyncio.sleep(0)

    asyncio.run(log())
    assert b"".join(written) == b"".join(b"x" * length + b"\n" for length in lengths)
    assert all(piece.endswith(b"\n") and (len(piece) <= PIPE_BUF or piece.count(b"\n") == 1) for piece in written)
    # No smaller ones than it takes.
    assert all(len(piece) + len(following.partition(b"\n")[0]) + 1 > PIPE_BUF for piece, following in pairwise(written))


async def test_for_a_person_the_line_of_a_request_is_no_json_and_below_the_level_it_is_not_written(configure: Configure) -> None:
    lines = configure("console", "INFO")
    log_one_request({"request_id": "abc"})
    direct, usual = lines()
    # All but the time, which comes first.
    assert direct.split(maxsplit=1)[1] == usual.split(maxsplit=1)[1]
    assert "abc" in direct
    for log_format in ("json", "console"):
        lines = configure(log_format, "WARNING")
        log_one_request({"request_id": "abc"})
        await asyncio.sleep(0)
        assert lines() == []


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_error_is_shown_with_its_frames_and_without_their_variables(configure: Configure, log_format: str) -> None:
    lines = configure(log_format, "INFO")

    def fail() -> None:
        token = "sword" + "fish"
        raise RuntimeError(f"failed after {len(token)} signs")

    for log in (structlog.get_logger("test"), logging.getLogger("some.library")):
        try:
            fail()
        except RuntimeError as error:
            log.error("it failed", exc_info=error)  # noqa: TRY400 (as the application does it, where the error is at hand)
    text = "".join(lines())
    assert text.count("failed after 9 signs") >= 2
    assert "test_logging.py" in text
    assert "swordfish" not in text


# ─── A real process ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def own(settings: Settings) -> Settings:
    """Settings with a database of one's own, which refuses one name in a way that nobody foresaw."""
    owner_url, service_url = clone_database(f"saas_logging_{worker_number()}")
    return changed(settings, database_url=service_url, database_admin_url=owner_url)


@pytest.fixture(scope="module")
def server(own: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "failing_server.py").write_text(FAILING_SERVER)
    environment = environment_of(own, log_level="INFO")
    environment["PYTHONPATH"] += f":{folder}"
    started = ServerProcess(folder, environment, module="failing_server")
    yield started
    started.kill()


@pytest.fixture
async def makes(own: Settings) -> AsyncIterator[Factory]:
    assert own.database_admin_url is not None
    made = Factory(own.database_admin_url.get_secret_value(), own)
    yield made
    await made.close()


def request_lines(server: ServerProcess, request_id: str) -> list[dict[str, Any]]:
    return [line for line in server.lines if line.get("request_id") == request_id]


async def lines_once_written(server: ServerProcess, request_id: str) -> list[dict[str, Any]]:
    """Return the request's lines, of which there has to be one: it is written after the answer has left."""

    async def written() -> bool:
        return bool(request_lines(server, request_id))

    await eventually(written)
    return request_lines(server, request_id)


async def test_a_request_is_one_line_with_all_that_one_looks_for(server: ServerProcess, makes: Factory) -> None:
    person = await makes.person()
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
        answer = await client.get("/api/v1/projects?q=secret-search", headers={**person.headers, "X-Request-ID": "request-1"})
    assert answer.status_code == 200
    (line,) = await lines_once_written(server, "request-1")
    expected = {"event": "request", "level": "info", "method": "GET", "path": "/api/v1/projects", "status": 200}
    assert {name: line[name] for name in expected} == expected
    assert (line["tenant"], line["user_id"]) == (person.tenant.slug, str(person.user.id))
    assert 0 < line["duration_ms"] < 60_000
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/api/v1/projects", 400), ("PUT", "/docs", 405), ("POST", "/api/v1/auth/login", 422)]
)
async def test_a_refused_request_is_one_line_too(server: ServerProcess, method: str, path: str, status: int) -> None:
    request_id = f"refused-{uuid4()}"
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
        answer = await client.request(method, path, headers={"X-Request-ID": request_id}, json={"password": "swordfish"} if method == "POST" else None)
    assert answer.status_code == status, answer.text
    (line,) = await lines_once_written(server, request_id)
    assert (line["event"], line["method"], line["path"], line["status"]) == ("request", method, path, status)
    assert "tenant" not in line
    assert "user_id" not in line


async def test_health_checks_do_not_fill_the_log(server: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
        for path in ("/health", "/health/live", "/health/ready"):
            await client.get(path, headers={"X-Request-ID": "a-health-check"})
    assert request_lines(server, "a-health-check") == []


async def test_no_line_ever_holds_a_password_a_token_or_a_body(server: ServerProcess, makes: Factory) -> None:
    """Neither where all goes well, nor where it is refused, nor where the code or PostgreSQL fails in a way that nobody foresaw."""
    person = await makes.person()
    await makes.run("ALTER TABLE users ADD CONSTRAINT ck_users_unforeseen CHECK (full_name <> 'Unforeseen Ada')")
    secrets = {"password": f"password-{uuid4()}", "note": f"note-{uuid4()}", "email": f"{uuid4().hex}@example.com"}
    new_user = {"email": secrets["email"], "password": secrets["password"], "full_name": "Unforeseen Ada"}
    signing_in = {"email": person.user.email, "password": PASSWORD, "tenant_slug": person.tenant.slug}
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
        signed_in = await client.post("/api/v1/auth/login", json=signing_in)
        answers = [
            signed_in,
            await client.post("/api/v1/auth/login", json={**signing_in, "password": secrets["password"]}),
            await client.post("/api/v1/auth/login", json={**signing_in, "password": [secrets["password"]]}),
            await client.post("/api/v1/auth/login", content=b'{"password": "' + secrets["password"].encode(), headers={"Content-Type": "application/json"}),
            await client.post("/api/v1/projects", headers=person.headers, json={"name": secrets["note"]}),
            await client.post("/api/v1/projects", headers=person.headers, json={"name": {"x": secrets["note"]}}),
            await client.get("/api/v1/projects", headers={**person.headers, "Authorization": f"Bearer {secrets['note']}"}),
            await client.post("/api/v1/test/crash", headers=person.headers, json={"password": secrets["password"], "note": secrets["note"]}),
            await client.post("/api/v1/users", headers=person.headers, json=new_user),
        ]
    assert [answer.status_code for answer in answers] == [200, 401, 422, 422, 201, 422, 401, 500, 500]
    output = server.output
    # The faults are there to be mended, in full.
    assert "unforeseen" in output
    assert "ck_users_unforeseen" in output
    tokens = [person.token, signed_in.json()["access_token"], signed_in.json()["refresh_token"]]
    for secret in (*secrets.values(), PASSWORD, *tokens, *(token.split(".")[-1] for token in tokens), "$bcrypt-sha256$", "Unforeseen Ada"):
        assert secret not in output
    # And none of it is in an answer either.
    for answer in answers[-2:]:
        assert answer.json()["code"] == "internal_error"
        assert "unforeseen" not in answer.text


async def test_every_line_that_the_process_writes_is_json(server: ServerProcess) -> None:
    lines = server.lines
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    assert any(line["event"] == "started" for line in lines)
