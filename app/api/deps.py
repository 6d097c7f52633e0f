"""What an endpoint may ask for: the caller, guarded by role, with or without a transaction for writing.

`ReadAsViewer`, `ReadAsAdmin`: a `Caller`, who reads with `async with caller.read()`.
`AsViewer`, `AsMember`, `AsAdmin`: a `Context`, whose `session` is a transaction that is committed before the answer leaves.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.exceptions import Forbidden, NotFound, TenantMismatch
from app.core.permissions import includes
from app.core.principals import Principal
from app.core.tenancy import TenantInfo
from app.database import Reader
from app.models import Role
from app.services.changes import Changes, telling
from app.services.container import Services

Row = TypeVar("Row")
AfterCommit = Callable[[], Awaitable[None]]


class Caller:
    """Who calls, and for which tenant.

    Queries are filtered by `tenant`, which the request names; the transaction is opened for the tenant of the user, which the token names. They are the
    same, but neither layer rests on the other.
    """

    __slots__ = ("services", "session_id", "tenant", "user")

    def __init__(self, services: Services, tenant: TenantInfo, user: Principal, session_id: UUID) -> None:
        self.services = services
        self.tenant = tenant
        self.user = user
        self.session_id = session_id

    def read(self) -> AbstractAsyncContextManager[Reader]:
        """Open a read-only transaction of the caller's tenant."""
        return self.services.database.read(self.user.tenant_id)

    @asynccontextmanager
    async def write(self) -> AsyncIterator["Context"]:
        """Open a transaction of the caller's tenant for writing, commit it, and then do what was put off until the commit."""
        async with telling(self.services.stamps, self.tenant.id) as changes, self.services.database.transaction(self.user.tenant_id) as session:
            context = Context(self, session, changes)
            yield context
        for action in context.actions:
            await action()

    @property
    def is_admin(self) -> bool:
        """Whether the caller is an admin of the tenant."""
        return includes(self.user.role, Role.ADMIN)


class Context(Caller):
    """A caller with a transaction for writing."""

    __slots__ = ("_changes", "actions", "session")

    def __init__(self, caller: Caller, session: AsyncSession, changes: Changes) -> None:
        super().__init__(caller.services, caller.tenant, caller.user, caller.session_id)
        self.session = session
        self.actions: list[AfterCommit] = []
        self._changes = changes

    async def get_or_404(self, statement: Select[Row], absent: type[NotFound] = NotFound) -> Row:
        """Return the one row. Raises `absent` where there is none, be it another tenant's or nobody's."""
        row = (await self.session.execute(statement)).scalar_one_or_none()
        if row is None:
            raise absent
        return row

    def after_commit(self, action: AfterCommit) -> None:
        """Have something done once the transaction is committed, and before the answer leaves."""
        self.actions.append(action)

    async def changed(self, user_id: UUID | None = None) -> None:
        """Have every server feel what the transaction changes of the tenant, or of one user of it, from its commit on."""
        await self._changes.announce(self.session, user_id)

    def tell_again(self, user_id: UUID) -> None:
        """Have every server load a user anew though nothing may change: whoever did it the first time may have died before they could answer, or tell."""
        self._changes.users.add(user_id)


async def services_of(request: Request) -> Services:
    """Return the process's services."""
    services: Services = request.app.state.services
    return services


async def authenticate(request: Request) -> Caller:
    """Return the caller. Raises `Unauthenticated` without a good token, `TenantMismatch` with one of another tenant."""
    state = request.scope["state"]
    claims, tenant = state.get("claims"), state.get("tenant")
    if claims is None or tenant is None:
        raise state["token_refusal"]
    if claims.tenant_id != tenant.id:
        raise TenantMismatch
    services: Services = request.app.state.services
    principal = await services.principals.find(claims, state["rate"].stamp)
    return Caller(services, tenant, principal, claims.session_id)


def reading_as(role: Role) -> Callable[[Request], Awaitable[Caller]]:
    """Return the dependency that gives a caller of at least this role. It raises `Forbidden` for a lesser one."""

    async def guard(request: Request) -> Caller:
        caller = await authenticate(request)
        if not includes(caller.user.role, role):
            raise Forbidden(f"This needs the role {role.value}; yours is {caller.user.role}.")
        return caller

    return guard


def writing_as(role: Role) -> Callable[[Request], AsyncIterator[Context]]:
    """Return the dependency that gives a caller of at least this role a transaction, and commits it."""
    guard = reading_as(role)

    async def transaction(request: Request) -> AsyncIterator[Context]:
        caller = await guard(request)
        async with caller.write() as context:
            yield context

    return transaction


def _writes(role: Role) -> Any:
    # scope="function": without it, FastAPI commits after the answer has left, and a commit that fails has already been answered with 201.
    return Depends(writing_as(role), scope="function")


ReadAsViewer = Annotated[Caller, Depends(reading_as(Role.VIEWER))]
ReadAsAdmin = Annotated[Caller, Depends(reading_as(Role.ADMIN))]
AsViewer = Annotated[Context, _writes(Role.VIEWER)]
AsMember = Annotated[Context, _writes(Role.MEMBER)]
AsAdmin = Annotated[Context, _writes(Role.ADMIN)]
AllServices = Annotated[Services, Depends(services_of)]
