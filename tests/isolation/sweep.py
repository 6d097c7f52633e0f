"""The sweep: every operation of the OpenAPI document × every place in it where another tenant can be named.

A tenant, the attacker, asks; another one, the victim, has rows full of a marker. Whatever is asked, no answer may hold the marker or an identifier of
the victim's, no row of the victim's may change, and a foreign object must be answered exactly like one that does not exist.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from fastapi import FastAPI
from httpx import Response

from app.core.derived_tokens import TokenKind, TokenName
from app.core.permissions import includes
from app.models import RegistrationPolicy, Role, TenantModel, TokenPurpose
from tests.clients import client_of
from tests.factories import PASSWORD, Factory, Person

MARKER = "zq7victim"
MARKER_OF_TENANT = "zq7tenant"  # of the victim's row in `tenants`, whose name anybody may learn who may register there
TENANT_TABLES = sorted(model.__tablename__ for model in TenantModel.__subclasses__())

# What names another tenant or one of its objects, by the name of a parameter or field. Identifiers are found by their format as well.
REFERENCES = ("cursor", "q", "tenant_slug")
METHODS = ("get", "post", "put", "patch", "delete", "head", "options", "trace")

Values = Mapping[str, str]
_numbers = count()


@dataclass(frozen=True)
class Case:
    """One way to ask an operation. `places` says what kind of object each reference is to: `path.project_id` -> `project`.

    References in path and body are always sent, those in the query only where they are attacked. What is named `once` is used up by being named; what
    `ends_sessions` is asked by a new person each time.
    """

    operation: str
    places: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[], dict[str, Any]] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    least: Role = Role.VIEWER
    guarded: bool = True
    once: bool = False
    ends_sessions: bool = False


def fresh(text: str) -> str:
    """Return the text with a number that no other has."""
    return f"{text} {next(_numbers)}"


def fresh_email() -> str:
    """Return an address that nobody has."""
    return f"{uuid4().hex}@example.com"


LISTED = {"with_total": "true", "page_size": "100"}
USER, PROJECT, RESOURCE = {"path.user_id": "user"}, {"path.project_id": "project"}, {"path.resource_id": "resource"}
CASES = (
    Case("GET /health", guarded=False),
    Case("GET /health/live", guarded=False),
    Case("GET /health/ready", guarded=False),
    Case(
        "POST /api/v1/auth/register",
        {"body.tenant_slug": "slug"},
        lambda: {"email": fresh_email(), "password": PASSWORD, "full_name": "New Person"},
        guarded=False,
    ),
    Case(
        "POST /api/v1/auth/register",
        {"body.tenant_slug": "slug", "body.invitation_token": "invitation token", "body.email": "invited"},
        lambda: {"password": PASSWORD, "full_name": "Invited Person"},
        guarded=False,
        once=True,
    ),
    Case("POST /api/v1/auth/login", {"body.tenant_slug": "slug", "body.email": "email"}, lambda: {"password": PASSWORD}, guarded=False),
    Case("POST /api/v1/auth/verify-email", {"body.token": "verification token"}, dict, guarded=False, once=True),
    Case("POST /api/v1/auth/verify-email/resend", {"body.tenant_slug": "slug", "body.email": "email"}, dict, guarded=False),
    Case("POST /api/v1/auth/password/forgot", {"body.tenant_slug": "slug", "body.email": "email"}, dict, guarded=False),
    Case("POST /api/v1/auth/password/reset", {"body.token": "reset token"}, lambda: {"password": PASSWORD}, guarded=False, once=True),
    Case("POST /api/v1/auth/password/change", body=lambda: {"current_password": PASSWORD, "new_password": PASSWORD}, ends_sessions=True),
    Case("GET /api/v1/auth/captcha", guarded=False),
    Case("POST /api/v1/auth/refresh", {"body.refresh_token": "refresh token"}, dict, guarded=False),
    Case("POST /api/v1/auth/logout", ends_sessions=True),
    Case("POST /api/v1/auth/logout-all", ends_sessions=True),
    Case("GET /api/v1/auth/sessions"),
    Case("DELETE /api/v1/auth/sessions/{session_id}", {"path.session_id": "session"}),
    Case("GET /api/v1/auth/me"),
    Case("GET /api/v1/users", {"query.cursor": "cursor of /api/v1/users", "query.q": "word"}, query=LISTED),
    Case("POST /api/v1/users", body=lambda: {"email": fresh_email(), "full_name": "New Person", "password": PASSWORD}, least=Role.ADMIN),
    Case(
        "GET /api/v1/users/invitations",
        {"query.cursor": "cursor of /api/v1/users/invitations", "query.q": "word"},
        query=LISTED,
        least=Role.ADMIN,
    ),
    Case("POST /api/v1/users/invitations", body=lambda: {"email": fresh_email(), "role": "admin"}, least=Role.ADMIN),
    Case("DELETE /api/v1/users/invitations/{invitation_id}", {"path.invitation_id": "invitation"}, least=Role.ADMIN),
    Case("GET /api/v1/users/{user_id}", USER),
    Case("PATCH /api/v1/users/{user_id}", USER, lambda: {"full_name": fresh("Renamed")}, least=Role.ADMIN),
    Case("PATCH /api/v1/users/{user_id}", USER, lambda: {"role": "admin", "is_active": True, "email": fresh_email()}, least=Role.ADMIN),
    Case("DELETE /api/v1/users/{user_id}", USER, least=Role.ADMIN),
    Case(
        "GET /api/v1/projects",
        {"query.owner_id": "user", "query.cursor": "cursor of /api/v1/projects", "query.q": "word"},
        query=LISTED,
    ),
    Case("GET /api/v1/projects", {"query.owner_id": "user", "query.q": "word"}, query={**LISTED, "include_deleted": "true"}, least=Role.ADMIN),
    Case("POST /api/v1/projects", {"body.owner_id": "user"}, lambda: {"name": fresh("Project")}, least=Role.ADMIN),
    Case("POST /api/v1/projects", body=lambda: {"name": fresh("Project")}, least=Role.MEMBER),
    Case("GET /api/v1/projects/{project_id}", PROJECT),
    Case("PATCH /api/v1/projects/{project_id}", PROJECT, lambda: {"name": fresh("Renamed")}, least=Role.MEMBER),
    Case("PATCH /api/v1/projects/{project_id}", {**PROJECT, "body.owner_id": "user"}, dict, least=Role.ADMIN),
    Case("DELETE /api/v1/projects/{project_id}", PROJECT, least=Role.ADMIN),
    Case("POST /api/v1/projects/{project_id}/restore", PROJECT, least=Role.ADMIN),
    Case("POST /api/v1/projects/{project_id}/restore", {"path.project_id": "deleted project"}, least=Role.ADMIN),
    Case("GET /api/v1/resources", {"query.project_id": "project", "query.cursor": "cursor of /api/v1/resources", "query.q": "word"}, query=LISTED),
    Case(
        "POST /api/v1/resources",
        {"body.project_id": "project"},
        lambda: {"name": fresh("Resource"), "type": "note", "data": {"a": 1}},
        least=Role.MEMBER,
    ),
    Case("GET /api/v1/resources/{resource_id}", RESOURCE),
    Case("PATCH /api/v1/resources/{resource_id}", RESOURCE, lambda: {"data": {"b": fresh("two")}}, least=Role.MEMBER),
    Case("DELETE /api/v1/resources/{resource_id}", RESOURCE, least=Role.MEMBER),
    Case("GET /api/v1/tenant"),
    Case("PATCH /api/v1/tenant", body=lambda: {"name": fresh("Renamed")}, least=Role.ADMIN),
)


def uncovered(document: dict[str, Any], cases: Iterable[Case]) -> list[str]:
    """Return the operations of the document without a case, and the references in them that no case attacks; also cases without an operation."""
    places: dict[str, set[str]] = {}
    for case in cases:
        places.setdefault(case.operation, set()).update(case.places)
    operations = {
        f"{method.upper()} {path}": operation for path, methods in document["paths"].items() for method, operation in methods.items() if method in METHODS
    }
    lacking = [f"{name} has no case" for name in operations.keys() - places.keys()]
    lacking += [f"{name} is no operation" for name in places.keys() - operations.keys()]
    for name in operations.keys() & places.keys():
        lacking += [f"{name} has no case for {place}" for place in references_of(document, operations[name]) if place not in places[name]]
    return sorted(lacking)


def references_of(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[str]:
    """Yield the places of an operation that can name an object of another tenant."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path" or is_reference(parameter["name"], parameter["schema"]):
            yield f"{parameter['in']}.{parameter['name']}"
    content = operation.get("requestBody", {}).get("content", {})
    for media_type in content.values():
        schema = media_type["schema"]
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        for name, kind in schema.get("properties", {}).items():
            if is_reference(name, kind):
                yield f"body.{name}"


def is_reference(name: str, schema: dict[str, Any]) -> bool:
    """Whether a parameter or field can name an object."""
    kinds = [schema, *schema.get("anyOf", []), schema.get("items", {})]
    return name in REFERENCES or name.endswith(("_id", "_ids", "_token")) or any(kind.get("format") == "uuid" for kind in kinds)


@dataclass(frozen=True)
class Asked:
    """A request that was sent: the case, what was done with it, and by whom."""

    operation: str
    attack: str
    role: Role

    def __str__(self) -> str:
        return f"{self.operation}, {self.attack}, as {self.role}"


@dataclass(frozen=True)
class Finding:
    """What should not be: a `read` or a `write` across tenants, an answer that `differs`, or one that went `wrong`."""

    kind: str
    asked: Asked
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.asked}: {self.detail}"


class World:
    """An attacker with a person of each role, and a victim, in one application."""

    attackers: Mapping[Role, Person]
    victim: Person
    foreign: Values
    own: Values
    secrets: dict[str, str]

    def __init__(self, app: FastAPI, factory: Factory, owner: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.app = app
        self.factory = factory
        self.owner = owner
        self.client = client_of(app)

    async def seed(self) -> None:
        """Make both tenants. Of everything the victim has, there is enough for a second page."""
        tenant = await self.factory.tenant(
            slug=f"{MARKER_OF_TENANT}-slug",
            subdomain=f"{MARKER_OF_TENANT}-subdomain",
            name=f"Name {MARKER_OF_TENANT}",
            # Joining an open tenant is no attack.
            registration_policy=RegistrationPolicy.INVITE_ONLY,
        )
        self.victim = await self._person(tenant, Role.ADMIN)
        await self._person(tenant, Role.MEMBER)
        self.foreign = await self.party(self.victim, MARKER)
        await self.party(self.victim, MARKER)
        await self.factory.mail(tenant, recipient=f"{MARKER}@example.com", data={MARKER: MARKER})
        listed = ("/api/v1/users", "/api/v1/users/invitations", "/api/v1/projects", "/api/v1/resources")
        self.foreign = {**self.foreign, **{f"cursor of {path}": await self._cursor(path) for path in listed}}
        attacker = await self.factory.tenant(name="Attackers")
        self.attackers = {role: await self.factory.person(attacker, role) for role in Role}
        self.own = await self.party(self.attackers[Role.ADMIN], "attacker")
        self.secrets = await self._secrets()

    async def renew_victim(self) -> None:
        """Give the victim new objects, and have attacks go to these."""
        self.foreign = {**self.foreign, **await self.party(self.victim, MARKER)}
        self.secrets.update(await self._secrets())

    async def _person(self, tenant: Any, role: Role) -> Person:
        email = f"{role.value}-{uuid4().hex[:6]}-{MARKER}@example.com"
        person = await self.factory.person(tenant, role, email=email, full_name=f"Person {MARKER}")
        await self.factory.run("UPDATE sessions SET ip_address = :word, user_agent = :word WHERE id = :id", word=MARKER, id=person.session_id)
        return person

    async def party(self, person: Person, word: str) -> Values:
        """Make one of each kind of object in the person's tenant, and return how each is named in a request."""
        tenant = person.tenant
        user = await self.factory.user(tenant, full_name=f"Somebody {word}", email=f"{uuid4().hex[:8]}-{word}@example.com")
        project = await self.factory.project(tenant, name=f"Project {word}", description=f"Description {word}", owner_id=user.id)
        deleted = await self.factory.project(tenant, name=f"Deleted {word}", description=f"Description {word}")
        await self.factory.run("UPDATE projects SET is_deleted = true, deleted_at = now() WHERE id = :id", id=deleted.id)
        await self.factory.resource(deleted, name=f"Resource {word}", type=word, data={word: word})
        resource = await self.factory.resource(project, name=f"Resource {word}", type=word, data={word: [word]}, created_by=user.id)
        invitation, token = await self.factory.invitation(tenant, email=f"{uuid4().hex[:8]}-{word}@example.com", invited_by=person.user.id)
        return {
            "slug": tenant.slug,
            "word": word,
            "email": person.user.email,
            "user": str(user.id),
            "project": str(project.id),
            "deleted project": str(deleted.id),
            "resource": str(resource.id),
            "verification token": await self.factory.mailed_token(user, TokenPurpose.VERIFY_EMAIL),
            "reset token": await self.factory.mailed_token(user, TokenPurpose.RESET_PASSWORD),
            "invitation": str(invitation.id),
            "invitation token": token,
            "invited": invitation.email,
            "session": str((await self.factory.sign_in(tenant, person.user)).session_id),
            "refresh token": await self.factory.repeatable_refresh_token(tenant, person.user),
        }

    async def _cursor(self, path: str) -> str:
        answer = await self.client.get(path, params={"page_size": "1"}, headers=self.victim.headers)
        cursor: str = answer.json()["next_cursor"]
        return cursor

    def absent(self) -> Values:
        """Return names of objects that nobody has."""
        words = {"slug": f"t-{uuid4().hex[:20]}", "word": uuid4().hex, "email": fresh_email(), "invited": fresh_email()}
        tokens = {name: self.factory.derived_tokens.make(TokenKind.MAILED, TokenName(uuid4(), uuid4())) for name in ("verification token", "reset token")}
        tokens |= {"invitation token": "A" * 91, "refresh token": self.factory.derived_tokens.make(TokenKind.REFRESH, TokenName(uuid4(), uuid4()))}
        identifiers = {name: str(uuid4()) for name in ("user", "project", "deleted project", "resource", "invitation", "session")}
        cursors = {name: "A" + value[1:] if value[0] != "A" else "B" + value[1:] for name, value in self.foreign.items() if name.startswith("cursor")}
        return {**words, **tokens, **identifiers, **cursors}

    async def _secrets(self) -> dict[str, str]:
        """Return every text that must not reach the attacker, with where it is from: the markers and the victim's identifiers and hashes."""
        secrets = {MARKER: "marker"}
        for table in TENANT_TABLES:
            rows = await self.owner.fetch(f"SELECT * FROM {table} WHERE tenant_id = $1", self.victim.tenant.id)
            assert rows, f"the victim needs a row in {table}: make one in World.seed"
            for row in rows:
                found = {name: value for name, value in row.items() if name != "tenant_id" and (isinstance(value, UUID) or name == "password_hash")}
                secrets |= {str(value): f"{table}.{name}" for name, value in found.items() if value is not None}
        return secrets

    @property
    def secrets_of_tenant(self) -> dict[str, str]:
        """What is in the victim's row of `tenants`, which everybody may read who knows the slug, but no answer to another tenant should hold."""
        return {MARKER_OF_TENANT: "marker of tenant", str(self.victim.tenant.id): "tenant_id"}

    async def rows_of_victim(self) -> dict[str, str]:
        """Return a digest of all that the victim has, by table."""
        tables = [f"SELECT '{t}' AS name, md5(string_agg(t::text, '|' ORDER BY t.id)) AS digest FROM {t} t WHERE tenant_id = $1" for t in TENANT_TABLES]
        tables.append("SELECT 'tenants', md5(t::text) FROM tenants t WHERE id = $1")
        return {row["name"]: row["digest"] for row in await self.owner.fetch(" UNION ALL ".join(tables), self.victim.tenant.id)}


@dataclass(frozen=True)
class Sent:
    """An answer, and the foreign values that the request itself held."""

    asked: Asked
    answer: Response
    values: frozenset[str]


class Sweep:
    """One pass over all cases. `findings` is what should not be, `ran` each operation with an attack on it."""

    def __init__(self, world: World, *, tenant_is_secret: bool = True) -> None:
        self.world = world
        self.findings: list[Finding] = []
        self.requests = 0
        self._secrets_of_tenant = world.secrets_of_tenant if tenant_is_secret else {}

    async def run(self, cases: Iterable[Case] = CASES, roles: Iterable[Role] = tuple(Role)) -> list[Finding]:
        """Ask everything and return the findings."""
        self._rows = await self.world.rows_of_victim()
        for role in roles:
            for case in cases:
                # Without a token there is no role.
                if case.guarded or role == Role.ADMIN:
                    await self._own(case, role)
                    await self._foreign(case, role)
                    await self._foreign_headers(case, role)
        return self.findings

    async def _own(self, case: Case, role: Role) -> None:
        """The same request with nothing foreign in it succeeds: otherwise an attack would be refused for a reason of its own."""
        sent = await self._send(case, role, "nothing foreign", {})
        if includes(role, case.least) and sent.answer.status_code >= 300:
            self._find("wrong", sent.asked, f"{sent.answer.status_code} {sent.answer.text}")

    async def _foreign(self, case: Case, role: Role) -> None:
        """A foreign object at one place, or at all, is answered as an absent one."""
        absent = self.world.absent()
        choices = [(place,) for place in case.places]
        for places in choices if len(choices) < 2 else [*choices, tuple(case.places)]:
            foreign = await self._send(case, role, f"foreign {', '.join(places)}", dict.fromkeys(places, self.world.foreign))
            nowhere = await self._send(case, role, f"absent {', '.join(places)}", dict.fromkeys(places, absent))
            if (seen := observable(foreign)) != (expected := observable(nowhere)):
                self._find("differs", foreign.asked, f"{seen} instead of {expected}")

    async def _foreign_headers(self, case: Case, role: Role) -> None:
        """Naming the victim in a header, with a token of one's own, is refused. Where two headers name two tenants, the slug's counts."""
        tenant = self.world.victim.tenant
        slug, identifier, host = {"X-Tenant-Slug": tenant.slug}, {"X-Tenant-ID": str(tenant.id)}, {"Host": f"{tenant.subdomain}.localhost"}
        # With the victim's own headers and password, signing in would be no attack.
        places = dict.fromkeys(case.places, self.world.foreign) if case.guarded else {}
        token = {"Authorization": self.world.attackers[role].headers["Authorization"]}
        for name, headers in {"foreign slug": slug, "foreign id": identifier, "foreign host": host, "foreign id and host": {**identifier, **host}}.items():
            sent = await self._send(case, role, name, places, {**token, **headers})
            if case.guarded and '"code":"tenant_mismatch"' not in sent.answer.text:
                self._find("wrong", sent.asked, f"not refused as tenant_mismatch: {sent.answer.status_code} {sent.answer.text[:200]}")
        person = await self._asking(case, role)
        own = await self._send(case, role, "own slug, foreign id and host", {}, {**person.headers, **identifier, **host})
        if includes(role, case.least) and own.answer.status_code >= 300:
            self._find("wrong", own.asked, f"{own.answer.status_code} {own.answer.text}")

    async def _send(self, case: Case, role: Role, attack: str, places: Mapping[str, Values], headers: Mapping[str, str] | None = None) -> Sent:
        """Send the case's request with other values at `places`, and look at the answer and at the victim's rows."""
        person = await self._asking(case, role)
        used_up = case.once or case.operation.startswith("DELETE")
        own = await self.world.party(person, "attacker") if used_up and not places else self.world.own
        parts: dict[str, dict[str, Any]] = {"path": {}, "query": dict(case.query), "body": case.body() if case.body else {}}
        for place, kind in case.places.items():
            where, _, name = place.partition(".")
            if where != "query" or place in places:
                parts[where][name] = places.get(place, own)[kind]
        method, _, path = case.operation.partition(" ")
        path = path.format(**parts["path"])
        body = parts["body"] if case.body else None
        answer = await self.world.client.request(method, path, params=parts["query"], json=body, headers=headers or person.headers)
        self.requests += 1
        sent = Sent(Asked(case.operation, attack, role), answer, frozenset(values[case.places[place]] for place, values in places.items()))
        await self._look(sent)
        return sent

    async def _asking(self, case: Case, role: Role) -> Person:
        """Return the attacker of a role."""
        attacker = self.world.attackers[role]
        return await self.world.factory.person(attacker.tenant, role) if case.ends_sessions else attacker

    async def _look(self, sent: Sent) -> None:
        found = leaked(sent.answer, self.world.secrets | self._secrets_of_tenant, sent.values)
        if found:
            self._find("read", sent.asked, f"{sorted(found)} in {sent.answer.text[:300]}")
        if sent.answer.status_code >= 500:
            self._find("wrong", sent.asked, f"{sent.answer.status_code} {sent.answer.text}")
        rows = await self.world.rows_of_victim()
        if rows != self._rows:
            self._find("write", sent.asked, f"changed {sorted(name for name in rows if rows[name] != self._rows[name])}")
            # What was changed or deleted can be attacked no more.
            await self.world.renew_victim()
            self._rows = await self.world.rows_of_victim()

    def _find(self, kind: str, asked: Asked, detail: str) -> None:
        self.findings.append(Finding(kind, asked, detail))


def told(findings: Iterable[Finding]) -> str:
    """Return the findings as lines, the first twenty."""
    lines = [str(finding) for finding in findings]
    return "\n".join([f"{len(lines)} findings", *lines[:20]])


def leaked(answer: Response, secrets: Mapping[str, str], sent: Iterable[str]) -> set[str]:
    """Return the secrets, by where they are from, that an answer's headers or body hold beyond what the request itself said."""
    text = "\n".join([*(f"{name}: {value}" for name, value in answer.headers.items()), answer.text]).lower()
    for value in sent:
        text = text.replace(value.lower(), "")
    return {where for secret, where in secrets.items() if secret.lower() in text}


def observable(sent: Sent) -> tuple[int, list[str], Any]:
    """Return what an attacker can tell two answers apart by: status, names of headers, and the body; of a success, the body's shape."""
    answer = sent.answer
    body: Any = json.loads(answer.text) if answer.text else None
    if answer.status_code < 400:
        return answer.status_code, sorted(answer.headers), shape(body)
    return answer.status_code, sorted(answer.headers), {name: value for name, value in body.items() if name not in ("request_id", "instance")}


def shape(value: Any) -> Any:
    """Return the value with its texts replaced by their type; numbers, such as a total, stay."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return "text" if isinstance(value, str) else value
