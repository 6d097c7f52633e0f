"""The rules of this code that are written down, each held by a test; and each test shown to notice what breaks its rule."""

import ast
import inspect
import os
import re
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, cast
from uuid import UUID

import alembic.command
import alembic.script
import psycopg2
import pytest
from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from httpx import AsyncClient
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.middleware.base import BaseHTTPMiddleware

from app.api.openapi import PUBLIC
from app.config import Settings
from app.core.exceptions import NotAuthenticated, Refusal
from app.database import Database
from app.database_faults import DatabaseUnavailable
from app.jobs.kinds import MODULES
from app.main import create_app
from app.middleware.tenant import API_PREFIX, NAMED_IN_BODY
from app.models import TenantModel
from tests.conftest import ROOT, alembic_config, clone_database, worker_number
from tests.factories import Factory
from tests.faults.support import changed

SOURCES = sorted((ROOT / "app").rglob("*.py"))
MIGRATIONS = sorted((ROOT / "alembic" / "versions").glob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 300, 50

# What operators run by hand is synchronous; the service never is.
SYNCHRONOUS = {"app/cli.py", "app/services/roles.py", "app/services/seeding.py", "app/services/failed_jobs.py", "app/services/doctor.py", "alembic/env.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(paths: list[Path]) -> Iterator[tuple[str, ast.Module]]:
    """Yield the name and the syntax tree of each file."""
    for path in paths:
        yield name_of(path), ast.parse(path.read_text())


def docstrings(tree: ast.AST) -> set[int]:
    """Return the identities of the constants that are docstrings."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    return {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}


# Transactions


def transaction_endings(tree: ast.AST) -> list[int]:
    """Return the lines that commit, roll back, or open a transaction by a method or by SQL."""
    texts = docstrings(tree)
    found = []
    for node in ast.walk(tree):
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("commit", "rollback", "begin")
        sql = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts and re.match(r"\s*(COMMIT|ROLLBACK|BEGIN)\b", node.value)
        if called or sql:
            found.append(node.lineno)  # type: ignore[attr-defined]  # calls and constants have a line
    return found


def test_transactions_begin_and_end_in_one_file() -> None:
    broken = {name: lines for name, tree in parsed(SOURCES) if name not in {"app/database.py", *SYNCHRONOUS} and (lines := transaction_endings(tree))}
    assert not broken, f"only app/database.py commits and rolls back; use Database.transaction(tenant_id): {broken}"


@pytest.mark.parametrize(
    "code", ["await session.commit()", "session.rollback()", "await driver.execute('COMMIT')", "run('ROLLBACK TO here')", "async with s.begin(): pass"]
)
def test_a_commit_elsewhere_is_noticed(code: str) -> None:
    assert transaction_endings(ast.parse(f"async def f():\n    {code}")) == [2]
    assert transaction_endings(ast.parse('"""COMMIT is not ours."""')) == []


def synchronous_imports(tree: ast.AST) -> set[str]:
    """Return what a file imports that blocks the event loop when it talks to PostgreSQL."""
    found = {f"{node.module}.{name.name}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names}
    found |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    return {
        name for name in found if name in ("sqlalchemy.create_engine", "sqlalchemy.orm.Session", "sqlalchemy.orm.sessionmaker") or name.startswith("psycopg2")
    }


def test_synchronous_engines_are_the_operator_s_only() -> None:
    files = [*SOURCES, ROOT / "alembic" / "env.py"]
    broken = {name: found for name, tree in parsed(files) if name not in SYNCHRONOUS and (found := synchronous_imports(tree))}
    assert not broken, f"a synchronous engine stalls the event loop: {broken}"


@pytest.mark.parametrize(
    "code", ["from sqlalchemy import create_engine", "from sqlalchemy.orm import Session as S", "import psycopg2", "from psycopg2 import sql"]
)
def test_a_synchronous_engine_is_noticed(code: str) -> None:
    assert synchronous_imports(ast.parse(code))


# Tenant filters

TENANT_MODELS = {model.__name__ for model in TenantModel.__subclasses__()}
STATEMENTS = {"select", "update", "delete", "insert", "exists"}


def unfiltered(tree: ast.AST) -> list[str]:
    """Return the statements on a tenant's table that do not say `Model.tenant_id == …`, and the rows that are made without `tenant_id`."""
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    complaints = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "get_one") and ast.unparse(node.func.value).endswith("session"):
            # From the session's memory it needs no query, and so no filter.
            complaints += [f"line {node.lineno}: {ast.unparse(node)}" for argument in node.args if names(argument) & TENANT_MODELS]
        if not isinstance(node.func, ast.Name):
            continue
        if node.func.id in TENANT_MODELS and "tenant_id" not in {keyword.arg for keyword in node.keywords}:
            complaints.append(f"line {node.lineno}: {node.func.id} is made without tenant_id")
        if node.func.id in STATEMENTS:
            whole = chain(node, parents)
            models = names(whole) & TENANT_MODELS
            filtered = node.func.id == "insert" and "tenant_id" in keywords(whole)
            complaints += [f"line {node.lineno}: {model} in {ast.unparse(whole)}" for model in sorted(models) if not filtered and model not in compared(whole)]
    return complaints


def chain(call: ast.Call, parents: dict[ast.AST, ast.AST]) -> ast.AST:
    """Return the whole statement that begins with the call: `select(…).join(…).where(…)`."""
    node: ast.AST = call
    while True:
        parent = parents.get(node)
        if isinstance(parent, ast.Attribute) or (isinstance(parent, ast.Call) and parent.func is node):
            node = parent
        else:
            return node


def names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def keywords(node: ast.AST) -> set[str | None]:
    return {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.keyword)}


def compared(node: ast.AST) -> set[str]:
    """Return the models of which `Model.tenant_id == …` is said, with a value or with another model's that is compared in turn."""
    found: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Compare) and isinstance(inner.ops[0], ast.Eq):
            left, right = inner.left, inner.comparators[0]
            if isinstance(left, ast.Attribute) and left.attr == "tenant_id" and isinstance(left.value, ast.Name) and ast.dump(left) != ast.dump(right):
                to_model = isinstance(right, ast.Attribute) and isinstance(right.value, ast.Name) and right.value.id in TENANT_MODELS
                found |= set() if to_model else {left.value.id}
    return found


FILTERED = ("api", "services", "core", "jobs")


def test_every_statement_on_a_tenant_s_table_names_the_tenant() -> None:
    files = [path for path in SOURCES if path.relative_to(ROOT / "app").parts[0] in FILTERED]
    broken = {name: complaints for name, tree in parsed(files) if (complaints := unfiltered(tree))}
    assert not broken, f"every query says Model.tenant_id == tenant.id, for each tenant's table in it: {broken}"


@pytest.mark.parametrize(
    "code",
    [
        "select(Project)",
        "select(Project).where(Project.id == id)",
        "select(func.count()).where(User.role == 'admin')",
        "select(User).where(User.tenant_id != tenant_id)",
        "select(User).where(User.tenant_id == User.tenant_id)",
        "select(User).join(Session, Session.tenant_id == User.tenant_id)",
        "select(User).join(Session, Session.user_id == User.id).where(User.tenant_id == tenant_id)",
        "exists().where(User.id == owner_id)",
        "update(Project).where(Project.owner_id == user_id).values(owner_id=None)",
        "delete(Resource).where(Resource.id == id)",
        "insert(Invitation).values(id=id)",
        "Project(name='no tenant')",
        "session.get(Project, key)",
        "ctx.session.get_one(User, key)",
    ],
)
def test_a_statement_without_the_tenant_is_noticed(code: str) -> None:
    assert unfiltered(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "select(Project).where(Project.tenant_id == ctx.tenant.id)",
        "select(Project).where(Project.tenant_id == bindparam('tenant_id')).order_by(Project.id)",
        "select(User).join(S, S.tenant_id == User.tenant_id).where(User.tenant_id == tenant_id, S.tenant_id == tenant_id)",
        "insert(Invitation).values(tenant_id=tenant_id, id=batch)",
        "select(Tenant).where(Tenant.slug == slug)",
        "Project(tenant_id=tenant_id)",
        "session.get_one(Tenant, tenant_id)",
    ],
)
def test_a_statement_with_the_tenant_is_accepted(code: str) -> None:
    assert unfiltered(ast.parse(code)) == []


# Jobs

# What gives jobs their contexts; everything else there is work, and has only the context that it was given.
WIRING = {"app/jobs/registry.py", "app/jobs/worker.py"}


def ways_around_the_context(tree: ast.AST) -> list[str]:
    """Return what reaches the database otherwise than by the `transaction()` of a job's context."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.alias) and (node.id if isinstance(node, ast.Name) else node.name) in ("Database", "Services", "create_async_engine"):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Attribute) and node.attr in ("database", "_database", "engine", "read"):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr in ("transaction", "final_transaction") and (node.args or node.keywords):  # type: ignore[attr-defined]  # a call, as was asked before
            found.append(f"line {node.lineno}: {ast.unparse(node)}")  # type: ignore[attr-defined]  # calls have a line
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("TenantJob", "WorldwideJob", "Dispatcher"):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_a_job_reaches_the_database_only_by_its_context() -> None:
    jobs = [path for path in SOURCES if name_of(path).startswith("app/jobs/")]
    assert {name_of(path) for path in jobs} > WIRING
    broken = {name: found for name, tree in parsed(jobs) if name not in WIRING and (found := ways_around_the_context(tree))}
    assert not broken, f"work opens transactions by job.transaction() and by nothing else: {broken}"


@pytest.mark.parametrize(
    "code",
    [
        "from app.database import Database",
        "from app.services.container import Services as S",
        "async with database.transaction(tenant_id) as session: pass",
        "async with job.transaction(tenant_id=other) as session: pass",
        "async with job._database.transaction(None) as session: pass",
        "async with services.database.read(None) as reader: pass",
        "TenantJob(database, tools, other)",
    ],
)
def test_a_way_around_a_jobs_context_is_noticed(code: str) -> None:
    assert ways_around_the_context(ast.parse(f"async def work(job, payload):\n    {code}"))
    assert not ways_around_the_context(ast.parse("async def work(job):\n    async with job.transaction() as session: pass"))


def test_every_kind_of_job_is_registered_by_what_the_worker_imports() -> None:
    """A module whose kinds nobody registers would leave its jobs waiting for ever."""
    registering = {name for name, tree in parsed(SOURCES) if name.startswith("app/jobs/") and {"tenant_job", "worldwide_job"} & names(tree)} - WIRING
    assert registering == {name_of(Path(str(module.__file__))) for module in MODULES}, "add the module to app/jobs/kinds.py"


# Routes and dependencies


def dependencies(dependant: Dependant) -> Iterator[Dependant]:
    """Yield the endpoint and everything that it depends on."""
    yield dependant
    for inner in dependant.dependencies:
        yield from dependencies(inner)


def routes(application: FastAPI) -> Iterator[tuple[str, Dependant]]:
    """Yield the path and the dependencies of each endpoint, those of included routers too."""
    for route in iter_route_contexts(application.routes):
        dependant = getattr(route, "dependant", None)
        if dependant is not None:
            assert route.path is not None
            yield route.path, dependant


def stalling(application: FastAPI) -> list[str]:
    """Return what FastAPI would run in a thread: a millisecond lost each time."""
    return [
        f"{path}: {inner.call.__qualname__}"  # type: ignore[union-attr]  # every dependency has a call
        for path, dependant in routes(application)
        for inner in dependencies(dependant)
        if not (inspect.iscoroutinefunction(inner.call) or inspect.isasyncgenfunction(inner.call))
    ]


def late_commits(application: FastAPI) -> list[str]:
    """Return the dependencies whose end comes after the answer has left."""
    return [
        f"{path}: {inner.call.__qualname__}"
        for path, dependant in routes(application)
        for inner in dependencies(dependant)
        if (inspect.isasyncgenfunction(inner.call) or inspect.isgeneratorfunction(inner.call)) and inner.scope != "function"
    ]


def unguarded(application: FastAPI) -> set[str]:
    """Return the paths of the endpoints without a role guard of app.api.deps."""
    guards = ("app.api.deps.reading_as.", "app.api.deps.writing_as.")
    return {
        path
        for path, dependant in routes(application)
        if not any(f"{inner.call.__module__}.{inner.call.__qualname__}".startswith(guards) for inner in dependencies(dependant))  # type: ignore[union-attr]  # every dependency has a call
    }


def test_every_endpoint_and_dependency_is_asynchronous(app: FastAPI) -> None:
    assert len(list(routes(app))) > 20
    assert stalling(app) == [], "a plain `def` runs in a thread: write `async def`"


def test_every_route_of_the_api_is_guarded_or_public(app: FastAPI) -> None:
    open_paths = unguarded(app)
    documentation = {path for path, _ in routes(app) if path not in app.openapi()["paths"]}
    assert open_paths == PUBLIC | documentation, "ask for ReadAs… or As… of app.api.deps, or put the path on the list PUBLIC of app/api/openapi.py"
    assert not {path for path in documentation if path.startswith(API_PREFIX)}


def test_the_document_asks_for_a_token_exactly_where_a_route_is_guarded(app: FastAPI) -> None:
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            assert ("security" in operation) == (path not in unguarded(app)), f"{method} {path}"


def test_every_transaction_is_committed_before_the_answer(app: FastAPI) -> None:
    assert late_commits(app) == [], 'use Depends(…, scope="function"): without it the commit comes after the answer'


def test_a_route_that_breaks_these_rules_is_noticed() -> None:
    async def late() -> AsyncIterator[None]:
        yield

    def stall() -> None:
        """Run in a thread."""

    application = FastAPI()

    @application.get("/api/v1/bad")
    async def bad(one: Annotated[None, Depends(late)], two: Annotated[None, Depends(stall)]) -> None:
        """Break every rule."""

    assert [line.rpartition(".")[2] for line in late_commits(application)] == ["late"]
    assert [line.rpartition(".")[2] for line in stalling(application)] == ["stall"]
    assert "/api/v1/bad" in unguarded(application)


@pytest.mark.parametrize(
    "operation, body",
    [
        ("POST /projects", {"name": "Lost"}),
        ("POST /users", {"email": "lost@example.com", "full_name": "Lost"}),
        ("PATCH /projects/{project}", {"name": "Lost"}),
        ("DELETE /projects/{project}", None),
        ("PATCH /tenant", {"name": "Lost"}),
    ],
)
async def test_a_commit_that_fails_is_not_answered_as_a_success(
    client: AsyncClient, factory: Factory, monkeypatch: pytest.MonkeyPatch, operation: str, body: dict[str, str] | None
) -> None:
    person = await factory.person()
    project = await factory.project(person.tenant)
    transaction = Database.transaction

    @asynccontextmanager
    async def failing(database: Database, tenant_id: UUID | None) -> AsyncIterator[AsyncSession]:
        async with transaction(database, tenant_id) as session:
            yield session
            raise DatabaseUnavailable("the commit failed")

    monkeypatch.setattr(Database, "transaction", failing)
    method, _, path = operation.format(project=project.id).partition(" ")
    answer = await client.request(method, f"/api/v1{path}", headers=person.headers, json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    projects = "SELECT count(*) FROM projects WHERE tenant_id = t.id AND NOT is_deleted AND name <> 'Lost'"
    users = "SELECT count(*) FROM users WHERE tenant_id = t.id"
    assert await factory.run(f"SELECT ({projects}), ({users}), name FROM tenants t WHERE id = :id", id=person.tenant.id) == [(1, 1, person.tenant.name)]


# Identifiers


def lax_identifiers(tree: ast.Module) -> list[str]:
    """Return what a client gives as a plain UUID: parameters of endpoints, and fields of bodies and of lists' queries."""
    given: list[tuple[str, ast.expr | None]] = []
    for node in tree.body:
        if isinstance(node, ast.AsyncFunctionDef) and any(isinstance(each, ast.Call) for each in node.decorator_list):
            given += [(f"{node.name}: {each.arg}", each.annotation) for each in node.args.args]
        if isinstance(node, ast.ClassDef) and {"Body", "Change", "Listed"} & names(ast.Tuple([*node.bases])):
            given += [(f"{node.name}.{ast.unparse(each.target)}", each.annotation) for each in node.body if isinstance(each, ast.AnnAssign)]
    return [name for name, annotation in given if annotation is not None and "UUID" in names(annotation)]


def test_identifiers_that_clients_give_have_one_spelling() -> None:
    files = [path for path in SOURCES if name_of(path).startswith(("app/api/", "app/schemas/"))]
    assert {name: found for name, tree in parsed(files) if (found := lax_identifiers(tree))} == {}, "write `Id` of app.schemas.common instead of `UUID`"


def test_an_identifier_that_has_many_spellings_is_noticed() -> None:
    code = "@router.get('/{thing_id}')\nasync def read(thing_id: UUID): ...\nclass New(Body):\n    owner_id: UUID | None\nclass Shown(Read):\n    id: UUID"
    assert lax_identifiers(ast.parse(code)) == ["read: thing_id", "New.owner_id"]


# Packages and files

# Which packages of app/ a package may import beside itself: only what lies below it.
BASE = {"config", "utils", "database_faults"}
BELOW: dict[str, set[str]] = {
    "utils": set(),
    "config": set(),
    "models": set(),
    "database_faults": set(),
    "database_pool": set(),
    "database": {"database_faults", "database_pool", "utils"},
    "core": {"models", "database", *BASE},
    "schemas": {"core", "models", "utils"},
    "services": {"schemas", "core", "models", "database", *BASE},
    "middleware": {"core", *BASE},
    "api": {"services", "schemas", "core", "models", "database", *BASE},
    "jobs": {"services", "core", "models", "database", *BASE},
    "cli": {"services", "core", "models", "database", *BASE},
    "main": {"api", "middleware", "services", "core", "database", *BASE},
    "wire": {"middleware", "core"},
    "server": {"main", "wire", "services", "config", "utils"},
}


def imports_of(tree: ast.AST) -> set[str]:
    """Return the packages of app/ that a file imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "app":
            found |= {name.name for name in node.names if not name.name.startswith("__")}
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names] if isinstance(node, ast.Import) else []
        found |= {module.split(".")[1] for module in modules if module.startswith("app.")}
    return found


def test_imports_point_down() -> None:
    broken = []
    for name, tree in parsed(SOURCES):
        package = Path(name).parts[1].removesuffix(".py")
        if package != "__init__":
            broken += [f"{name} imports app.{other}" for other in imports_of(tree) - {package} if other not in BELOW[package]]
    assert not broken, f"a package imports only what lies below it (api → services → core → models → database, config): {broken}"


def test_an_import_is_noticed_however_it_is_written() -> None:
    assert imports_of(ast.parse("import app.api.deps\nfrom app.core import limits\nfrom app import services, __version__\nfrom os import path")) == {
        "api",
        "core",
        "services",
    }


def too_long(path: Path) -> list[str]:
    """Return what is too long in a file: itself, or a function."""
    text = path.read_text()
    lines = text.count("\n")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f"{node.name}: {length} lines" for node in functions if (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION]
    return long + ([f"{lines} lines"] if lines > LONGEST_FILE else [])


def test_no_file_and_no_function_is_long() -> None:
    broken = {name_of(path): long for path in SOURCES if (long := too_long(path))}
    assert not broken, f"a file is about one thing and has at most {LONGEST_FILE} lines, a function at most {LONGEST_FUNCTION}: {broken}"


def test_what_is_too_long_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("def f():\n" + "    pass\n" * LONGEST_FUNCTION + "x = 1\n" * LONGEST_FILE)
    assert too_long(path) == [f"f: {LONGEST_FUNCTION + 1} lines", f"{LONGEST_FUNCTION + 1 + LONGEST_FILE} lines"]


def undocumented(tree: ast.Module) -> list[str]:
    """Return the public classes and functions without a docstring, and the file itself. What a class inherits may be documented there."""
    bodies: list[ast.Module | ast.ClassDef] = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_" and not node.bases)]
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for body in bodies for node in body.body if isinstance(node, kinds) and not node.name.startswith("_")]
    lacking = [f"{node.name}, line {node.lineno}" for node in found if ast.get_docstring(node) is None]
    return lacking + (["the file"] if tree.body and ast.get_docstring(tree) is None else [])


def test_everything_public_says_what_it_does() -> None:
    broken = {name: lacking for name, tree in parsed([*SOURCES, *MIGRATIONS]) if (lacking := undocumented(tree))}
    assert not broken, f"a docstring is missing: {broken}"
    assert undocumented(ast.parse("class A:\n    def f(self): ...")) == ["A, line 1", "f, line 2", "the file"]


# `noqa` and `type: ignore` with the rule, and the reason behind it on the same line.
EXCEPTION = re.compile(r"#\s*(noqa|type:\s*ignore)")
WITH_REASON = re.compile(r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)* \(.{4,}\)|# type: ignore\[[a-z, -]+\]  # .{4,}")


def test_every_exception_to_a_check_has_its_reason_on_the_line() -> None:
    broken = []
    for folder in ("app", "alembic", "tests", "deploy", "benchmarks", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path == Path(__file__):
                continue
            lines = enumerate(path.read_text().splitlines(), 1)
            broken += [f"{name_of(path)}:{number}" for number, line in lines if EXCEPTION.search(line) and not WITH_REASON.search(line)]
    assert not broken, f"say why, behind the exception: {broken}"


@pytest.mark.parametrize("line", ["x = 1  # noqa", "x = 1  # noqa: S105", "x = 1  # type: ignore", "x = 1  # type: ignore[misc]"])
def test_an_exception_without_a_reason_is_noticed(line: str) -> None:
    assert EXCEPTION.search(line)
    assert not WITH_REASON.search(line)


# Middleware


def test_middleware_is_pure_asgi(app: FastAPI) -> None:
    slow = [entry.cls for entry in app.user_middleware if inspect.isclass(entry.cls) and issubclass(entry.cls, BaseHTTPMiddleware)]
    assert slow == [], "BaseHTTPMiddleware costs 130 µs a request: write a class with __call__(scope, receive, send)"
    ours = [entry.cls for entry in app.user_middleware if entry.cls.__module__.startswith("app.")]
    assert len(ours) >= 6
    for cls in ours:
        assert list(inspect.signature(cls.__call__).parameters) == ["self", "scope", "receive", "send"], cls
    assert not [name for name, tree in parsed(SOURCES) if {"BaseHTTPMiddleware"} & names(tree)]


def test_middleware_that_waits_for_nothing_is_no_coroutine(settings: Settings) -> None:
    own = changed(settings, allowed_origins=("https://app.example.com",), trusted_proxies=("127.0.0.1",))
    layers = {entry.cls for entry in create_app(own).user_middleware}
    assert len(layers) >= 11
    waiting = {cast("Any", cls).__name__ for cls in layers if inspect.iscoroutinefunction(cls.__call__)}
    assert waiting == {"RequestContextMiddleware", "ErrorMiddleware", "ProblemCORSMiddleware", "RateLimitMiddleware"}, "docs/adr/0016"


def test_the_tenant_is_expected_in_the_body_where_the_document_says_so(app: FastAPI) -> None:
    document = app.openapi()
    naming = set()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            schema = resolved(document, schema)
            if {"tenant_slug", "token", "refresh_token"} & set(schema.get("properties", {})):
                naming.add(path)
    assert naming == NAMED_IN_BODY, "app/middleware/tenant.py: NAMED_IN_BODY"


# Refusals


def subclasses(kind: type[Any]) -> list[type[Any]]:
    return [found for inner in kind.__subclasses__() for found in (inner, *subclasses(inner))]


def ill_made(refusals: list[type[Refusal]]) -> list[str]:
    """Return what is wrong with classes of refusals."""
    codes = [refusal.code for refusal in refusals if "code" in vars(refusal)]
    complaints = [f"the code {code} is given twice" for code in sorted(set(codes)) if codes.count(code) > 1]
    for refusal in refusals:
        if "code" not in vars(refusal):
            complaints.append(f"{refusal.__name__} has no code of its own")
        if not refusal.__doc__ or not refusal.__doc__.strip():
            complaints.append(f"{refusal.__name__} has no docstring")
        if not 400 <= refusal.status < 600 or not re.fullmatch(r"[a-z][a-z0-9_]+", refusal.code):
            complaints.append(f"{refusal.__name__} has the status {refusal.status} and the code {refusal.code}")
    return complaints


def test_every_refusal_has_its_own_code_and_text() -> None:
    ours = [kind for kind in subclasses(Refusal) if kind.__module__.startswith("app.")]
    assert len(ours) > 30
    # Its base, whose code it has, is never raised itself.
    assert ill_made([kind for kind in ours if kind is not NotAuthenticated]) == []


def test_an_ill_made_refusal_is_noticed() -> None:
    wordless = type("Wordless", (Refusal,), {"code": "one", "status": 200, "__doc__": None})
    twin = type("Twin", (Refusal,), {"code": "one", "__doc__": "Text."})
    heir = type("Heir", (twin,), {"__doc__": "Text."})
    assert ill_made([wordless, twin, heir]) == [
        "the code one is given twice",
        "Wordless has no docstring",
        "Wordless has the status 200 and the code one",
        "Heir has no code of its own",
    ]


# The document


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema itself where it is given by reference."""
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def poorly_documented(document: dict[str, Any]) -> list[str]:
    """Return what the document lacks: a summary, an answer with a schema, errors, and examples."""
    complaints = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            lacking = list(lacks(document, operation, guarded="security" in operation))
            complaints += [f"{method.upper()} {path} lacks {what}" for what in lacking]
    return complaints


def lacks(document: dict[str, Any], operation: dict[str, Any], *, guarded: bool) -> Iterator[str]:
    """Yield what an operation lacks."""
    if not operation.get("summary") or operation["summary"].endswith("."):
        yield "a summary"
    good = {status: answer for status, answer in operation["responses"].items() if status.startswith("2")}
    if not good:
        yield "a success"
    for status, answer in good.items():
        schema = resolved(document, answer.get("content", {}).get("application/json", {}).get("schema", {}))
        if status != "204" and not schema.get("properties"):
            yield f"a schema of {status}"
        if status != "204" and "example" not in schema:
            yield f"an example of {status}"
    errors = {status: answer for status, answer in operation["responses"].items() if status[0] in "45"}
    for status in ("401", "403", "404", "422", "429") if guarded else ():
        if "application/problem+json" not in errors.get(status, {}).get("content", {}):
            yield f"the problem document of {status}"
    if "500" not in errors:
        yield "the problem document of 500"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if body and "example" not in body and "example" not in resolved(document, body["schema"]):
        yield "an example of the body"


def references(value: Any) -> Iterator[str]:
    """Yield every reference within the document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_operation_is_documented(app: FastAPI) -> None:
    assert poorly_documented(app.openapi()) == []


def test_every_reference_in_the_document_leads_somewhere(app: FastAPI) -> None:
    document = app.openapi()
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= known
    assert "HTTPValidationError" not in document["components"]["schemas"], "FastAPI's own form of 422 is not ours"


def test_a_poorly_documented_operation_is_noticed() -> None:
    operation = {"security": [], "responses": {"200": {}}, "requestBody": {"content": {"application/json": {"schema": {}}}}}
    found = poorly_documented({"paths": {"/bad": {"get": operation}}})
    assert "GET /bad lacks a summary" in found
    assert "GET /bad lacks a schema of 200" in found
    assert "GET /bad lacks an example of 200" in found
    assert "GET /bad lacks the problem document of 404" in found
    assert "GET /bad lacks an example of the body" in found


# Migrations


def without_timeouts(tree: ast.AST) -> list[str]:
    """Return the functions of a migration that set no lock_timeout or statement_timeout."""
    functions = {node.name: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in ("upgrade", "downgrade")}
    wanted = [(name, setting) for name in ("upgrade", "downgrade") for setting in ("lock_timeout", "statement_timeout")]
    return [f"{name} sets no {setting}" for name, setting in wanted if f"SET LOCAL {setting} = " not in functions.get(name, "")]


def test_every_migration_has_timeouts_both_ways() -> None:
    assert MIGRATIONS
    assert {name: lacking for name, tree in parsed(MIGRATIONS) if (lacking := without_timeouts(tree))} == {}
    template = (ROOT / "alembic" / "script.py.mako").read_text()
    assert template.count("SET LOCAL lock_timeout") == template.count("SET LOCAL statement_timeout") == 2
    assert len(without_timeouts(ast.parse("def upgrade(): op.execute('SET LOCAL lock_timeout = 1')"))) == 3


SCHEMA = """
SELECT 'column', table_name, column_name, concat_ws(' ', data_type, is_nullable, column_default) FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'policy', tablename, policyname, concat_ws(' ', cmd, roles::text, qual, with_check) FROM pg_policies WHERE schemaname = 'public'
UNION ALL SELECT 'table', relname, concat(relrowsecurity, relforcerowsecurity), relacl::text FROM pg_class
          WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
UNION ALL SELECT 'grant', attrelid::regclass::text, attname, attacl::text FROM pg_attribute WHERE attacl IS NOT NULL AND attrelid::regclass::text !~ '^pg_'
UNION ALL SELECT 'function', proname, prosrc, '' FROM pg_proc WHERE pronamespace = 'public'::regnamespace
ORDER BY 1, 2, 3, 4
"""


@pytest.fixture
def scratch_url() -> str:
    """The owner's URL of a migrated database for one test alone."""
    return clone_database(f"migrations_{worker_number()}")[0]


def schema_of(url: str) -> list[tuple[Any, ...]]:
    """Return everything that migrations make."""
    connection = psycopg2.connect(url)
    with connection.cursor() as cursor:
        cursor.execute(SCHEMA)
        found = cursor.fetchall()
    connection.close()
    return found


def test_the_models_and_the_migrations_say_the_same(scratch_url: str) -> None:
    alembic.command.check(alembic_config(scratch_url))
    connection = psycopg2.connect(scratch_url)
    with connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE projects ADD COLUMN unknown_to_the_model text")
    connection.close()
    with pytest.raises(alembic.util.AutogenerateDiffsDetected):
        alembic.command.check(alembic_config(scratch_url))


def test_every_migration_goes_down_and_up_again(scratch_url: str) -> None:
    """To the same schema, policies and grants included, step by step."""
    configuration = alembic_config(scratch_url)
    revisions = [script.revision for script in alembic.script.ScriptDirectory.from_config(configuration).walk_revisions()]
    assert len(revisions) == len(MIGRATIONS)
    for _ in revisions:
        before = schema_of(scratch_url)
        assert len({table for kind, table, *_ in before if kind == "table"}) > 1
        alembic.command.downgrade(configuration, "-1")
        after = schema_of(scratch_url)
        assert after != before, "the downgrade did nothing"
        alembic.command.upgrade(configuration, "+1")
        assert schema_of(scratch_url) == before
        alembic.command.downgrade(configuration, "-1")
    assert {table for kind, table, *_ in schema_of(scratch_url) if kind == "table"} == {"alembic_version"}


# The repository


HIDDEN_FOLDERS_OF_OURS = {".ci", ".github"}


def files_of_the_repository() -> Iterator[Path]:
    """Yield every file but those that tools make, which lie in hidden folders and caches."""
    for folder, subfolders, files in os.walk(ROOT):
        made = {"__pycache__", *(name for name in subfolders if name[0] == "." or name.endswith(".egg-info"))} - HIDDEN_FOLDERS_OF_OURS
        subfolders[:] = [name for name in subfolders if name not in made]
        # In a worktree of Git, .git is a file.
        yield from (Path(folder) / name for name in sorted(files) if name not in (".env", ".git"))


FOREIGN = {
    "a package index": re.compile(r"(pypi\.org|pythonhosted\.org|npmjs\.(org|com)|--(extra-)?index-url[ =])"),
    "a path of one machine": re.compile(r"(?<![\w.*-])/(work|root|home|Users)/[\w.]"),
}


def test_no_file_names_a_package_index_or_a_path_of_one_machine() -> None:
    broken = []
    for path in files_of_the_repository():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        broken += [f"{name_of(path)}: {what}: {found.group()}" for what, pattern in FOREIGN.items() if (found := pattern.search(text))]
    assert not broken, f"the repository speaks of the project alone: {broken}"


@pytest.mark.parametrize("text", ["https://pypi" + ".org/simple", "pip install --index" + "-url http://x", "open('/ho" + "me/somebody/file')"])
def test_a_foreign_name_is_noticed(text: str) -> None:
    assert any(pattern.search(text) for pattern in FOREIGN.values())


def test_secrets_stay_out_of_the_repository() -> None:
    lines = (ROOT / ".gitignore").read_text().splitlines()
    assert {".env", "/.env"} & set(lines)
    assert not [line for line in lines if line.startswith("!")]


def test_warnings_are_errors() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert options["filterwarnings"][0] == "error"
