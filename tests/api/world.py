"""A tenant with one person of each role, a project and a resource; and for each operation a request that is right."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from httpx import AsyncClient

from app.main import create_app
from app.models import Invitation, Project, Resource, Role, Tenant
from tests.clients import BASE_URL, client_of
from tests.conftest import test_settings, worker_number
from tests.factories import PASSWORD, Factory, Person

HTTP_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})

Operation = tuple[str, str]

# After these the caller, or who else is signed in as the same person, has to sign in anew.
ENDS_SESSIONS: frozenset[Operation] = frozenset(
    {("POST", "/api/v1/auth/logout"), ("POST", "/api/v1/auth/logout-all"), ("POST", "/api/v1/auth/password/change")}
)


@dataclass(frozen=True)
class World:
    """A tenant and what is in it."""

    tenant: Tenant
    admin: Person
    member: Person
    viewer: Person
    project: Project
    resource: Resource
    invitation: Invitation
    # The admin's; it can be used again and again.
    refresh_token: str

    def path(self, template: str) -> str:
        """Return an operation's path with the identifiers of this world's objects. The user is the viewer."""
        identifiers = {"project_id": self.project.id, "resource_id": self.resource.id, "user_id": self.viewer.user.id, "invitation_id": self.invitation.id}
        return template.format(**identifiers, session_id=self.viewer.session_id)

    def body(self, operation: Operation) -> dict[str, Any] | None:
        """Return a body that the operation accepts, with every field that it knows; None where it takes none."""
        name = f"name {uuid4().hex[:8]}"
        email = f"{uuid4().hex[:12]}@example.com"
        bodies: dict[Operation, dict[str, Any]] = {
            ("POST", "/api/v1/auth/refresh"): {"refresh_token": self.refresh_token},
            ("POST", "/api/v1/auth/register"): newcomer(invitation_token=None, captcha="not demanded here"),
            ("POST", "/api/v1/auth/login"): {"email": self.admin.user.email, "password": PASSWORD, "tenant_slug": self.tenant.slug},
            ("POST", "/api/v1/auth/verify-email"): {"token": "never mailed"},
            ("POST", "/api/v1/auth/verify-email/resend"): {"email": email, "tenant_slug": self.tenant.slug},
            ("POST", "/api/v1/auth/password/forgot"): {"email": email, "tenant_slug": self.tenant.slug, "captcha": "not demanded here"},
            ("POST", "/api/v1/auth/password/reset"): {"token": "never mailed", "password": PASSWORD},
            ("POST", "/api/v1/auth/password/change"): {"current_password": PASSWORD, "new_password": PASSWORD},
            ("POST", "/api/v1/users"): {"email": email, "full_name": name, "role": "viewer", "password": PASSWORD},
            ("POST", "/api/v1/users/invitations"): {"email": email, "role": "viewer"},
            ("PATCH", "/api/v1/users/{user_id}"): {"email": email, "full_name": name, "role": "viewer", "is_active": True},
            ("POST", "/api/v1/projects"): {"name": name, "description": "text", "status": "active", "owner_id": None},
            ("PATCH", "/api/v1/projects/{project_id}"): {"name": name, "description": "text", "status": "on_hold"},
            ("POST", "/api/v1/resources"): {"project_id": str(self.project.id), "name": name, "type": "note", "data": {"a": 1}},
            ("PATCH", "/api/v1/resources/{resource_id}"): {"name": name, "type": "note", "data": {"b": name}},
            ("PATCH", "/api/v1/tenant"): {"name": name, "subdomain": f"s-{uuid4().hex[:20]}", "registration_policy": "open"},
        }
        return bodies.get(operation)


WITH_BODY: tuple[Operation, ...] = (
    ("POST", "/api/v1/auth/register"),
    ("POST", "/api/v1/auth/login"),
    ("POST", "/api/v1/auth/refresh"),
    ("POST", "/api/v1/auth/verify-email"),
    ("POST", "/api/v1/auth/verify-email/resend"),
    ("POST", "/api/v1/auth/password/forgot"),
    ("POST", "/api/v1/auth/password/reset"),
    ("POST", "/api/v1/auth/password/change"),
    ("POST", "/api/v1/users"),
    ("POST", "/api/v1/users/invitations"),
    ("PATCH", "/api/v1/users/{user_id}"),
    ("POST", "/api/v1/projects"),
    ("PATCH", "/api/v1/projects/{project_id}"),
    ("POST", "/api/v1/resources"),
    ("PATCH", "/api/v1/resources/{resource_id}"),
    ("PATCH", "/api/v1/tenant"),
)


def newcomer(**changes: Any) -> dict[str, Any]:
    """Return a registration that is right: of a new tenant, unless `tenant_slug` says otherwise."""
    slug = f"n-{uuid4().hex[:20]}"
    standard = {
        "email": f"{uuid4().hex[:12]}@example.com",
        "password": PASSWORD,
        "full_name": "New Comer",
        "tenant_slug": slug,
        "tenant_name": f"Tenant {slug}",
    }
    return {**standard, **changes}


async def make_world(factory: Factory) -> World:
    """Make a new one."""
    tenant = await factory.tenant()
    admin, member, viewer = [await factory.person(tenant, role) for role in (Role.ADMIN, Role.MEMBER, Role.VIEWER)]
    project = await factory.project(tenant, owner_id=member.user.id)
    resource = await factory.resource(project, created_by=member.user.id)
    invitation, _ = await factory.invitation(tenant, invited_by=admin.user.id)
    refresh_token = await factory.repeatable_refresh_token(tenant, admin.user)
    return World(tenant, admin, member, viewer, project, resource, invitation, refresh_token)


@asynccontextmanager
async def client_with(database_urls: tuple[str, str], *, base_url: str = BASE_URL, peer: str | None = None, **settings: Any) -> AsyncIterator[AsyncClient]:
    """Give a client of an application of its own, that has other settings than the tests' usual one."""
    app = create_app(test_settings(*database_urls, worker_number(), **settings))
    async with (
        app.router.lifespan_context(app),
        client_of(app, peer, base_url=base_url) as client,
    ):
        yield client
