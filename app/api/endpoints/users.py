"""The people of a tenant."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from sqlalchemy import bindparam, delete, func, select

from app.api.answers import JSONBytes
from app.api.deps import AsViewer, Context, ReadAsAdmin, ReadAsViewer
from app.api.documented import documented
from app.api.listing import Listing
from app.api.query import parameters_of, query_of
from app.api.retry import RetryingRoute
from app.core.account_exceptions import MailThrottled
from app.core.exceptions import EmailTaken, Forbidden, LastAdmin, NotFound, WeakPassword
from app.core.passwords import refuse_weak
from app.database import Query
from app.models import Invitation, MailTemplate, Role, Tenant, User
from app.schemas.common import Id, Page
from app.schemas.user import UserCreate, UserList, UserRead, UserUpdate
from app.services.account_mail import refuse_flood
from app.services.mail import post
from app.services.registration import flush_user, refuse_taken
from app.services.releasing import release_some
from app.services.sessions import revoke_sessions
from app.utils.json import to_json

router = APIRouter(prefix="/api/v1/users", tags=["users"], route_class=RetryingRoute)

COLUMNS = tuple(UserRead.model_fields)
OF_TENANT = select(User).where(User.tenant_id == bindparam("tenant_id"))
LIST = Listing(
    OF_TENANT,
    model=User,
    columns=COLUMNS,
    filters={"role": User.role == bindparam("role"), "is_active": User.is_active == bindparam("is_active")},
    search=(User.full_name, User.email),
)
ONE = Query(OF_TENANT.with_only_columns(*(getattr(User, name) for name in COLUMNS)).where(User.id == bindparam("id")))
ADMINS_TO_CHANGE = frozenset({"role", "is_active"})


@router.get("", response_model=Page[UserRead], responses=documented(), openapi_extra=parameters_of(UserList))
async def list_users(caller: ReadAsViewer, asked: Annotated[UserList, Depends(query_of(UserList))]) -> Response:
    """List the tenant's users. `q` looks in name and address."""
    async with caller.read() as reader:
        return JSONBytes(await LIST.answer(reader, caller.services.cursors, caller.tenant.id, asked))


@router.get("/{user_id}", response_model=UserRead, responses=documented(NotFound))
async def read_user(user_id: Id, caller: ReadAsViewer) -> Response:
    """Show one user."""
    async with caller.read() as reader:
        row = await reader.fetch_one(ONE, tenant_id=caller.tenant.id, id=user_id)
    if row is None:
        raise NotFound
    return JSONBytes(to_json(dict(row)))


@router.post("", status_code=201, responses=documented(EmailTaken, WeakPassword, MailThrottled))
async def create_user(new: UserCreate, caller: ReadAsAdmin, response: Response) -> UserRead:
    """Add a user. Admins only.

    Without a password the user is mailed a link to choose one, and can sign in from then on; with one, a link to verify the address.
    """
    password_hash = None
    if new.password is not None:
        refuse_weak(new.password, email=new.email, tenant_name=caller.tenant.name, tenant_slug=caller.tenant.slug)
        # Before the transaction: hashing takes a quarter of a second, and connections are few.
        password_hash = await caller.services.passwords.hash(new.password)
    async with caller.write() as ctx:
        user = User(tenant_id=ctx.tenant.id, email=new.email, full_name=new.full_name, role=new.role, password_hash=password_hash)
        ctx.session.add(user)
        await flush_user(ctx.session)
        await refuse_flood(ctx.services, ctx.tenant.id, ctx.user.id, new.email)
        await ctx.session.refresh(user)
        template = MailTemplate.SET_PASSWORD if password_hash is None else MailTemplate.VERIFY_EMAIL
        await post(ctx.session, ctx.tenant.id, template, user.email, subject_id=user.id)
    response.headers["Location"] = f"/api/v1/users/{user.id}"
    return UserRead.model_validate(user)


@router.patch("/{user_id}", responses=documented(NotFound, EmailTaken, LastAdmin, MailThrottled))
async def update_user(user_id: Id, change: UserUpdate, ctx: AsViewer) -> UserRead:
    """Change a user. Admins change anybody's name, address, role and whether they are active; others their own name and address.

    A new `email` must be verified before it counts: a link is mailed to the new address, and until it is followed `email` stays as it is. Setting `email`
    to what it is takes back a change that still waits. Setting `is_active` to false ends the user's sessions for good.
    """
    if not ctx.is_admin:
        if user_id != ctx.user.id:
            raise Forbidden("Only an admin may change other users.")
        if change.model_fields_set & ADMINS_TO_CHANGE:
            raise Forbidden("Only an admin may change `role` or `is_active`.")
    if change.model_fields_set & ADMINS_TO_CHANGE:
        await _lock_tenant(ctx)
        ctx.tell_again(user_id)
    user = await ctx.get_or_404(select(User).where(User.tenant_id == ctx.tenant.id, User.id == user_id).with_for_update())
    changes = change.changes_to(user)
    if changes.get("role", Role.ADMIN) != Role.ADMIN or changes.get("is_active") is False:
        await _refuse_last_admin(ctx, user)
    if "email" in change.model_fields_set:
        await _change_address(ctx, user, changes.pop("email", None))
    if changes.get("is_active") is False:
        await revoke_sessions(ctx.session, ctx.tenant.id, user_id)
    if changes:
        for name, value in changes.items():
            setattr(user, name, value)
        user.updated_at = func.now()
        await flush_user(ctx.session)
        await ctx.session.refresh(user)
        await ctx.changed(user_id)
    return UserRead.model_validate(user)


@router.delete("/{user_id}", status_code=204, responses=documented(NotFound, LastAdmin))
async def delete_user(user_id: Id, caller: ReadAsAdmin) -> None:
    """Delete a user. Admins only. What the user owned or made stays, without an owner; an open invitation of the user's address is withdrawn.

    Of a user who made very many things this takes a while: some ten thousand of them a second. The user is out from the beginning, and a call that was
    broken off is continued by the next one.
    """
    is_gone = False
    while not is_gone:
        async with caller.write() as ctx:
            is_gone = await _delete(ctx, user_id)


async def _delete(ctx: Context, user_id: UUID) -> bool:
    """Delete a user from whom not too much has to be taken; otherwise put the user out, and take away some of it. Returns whether the user is gone."""
    await _lock_tenant(ctx)
    ctx.tell_again(user_id)
    user = await ctx.get_or_404(select(User).where(User.tenant_id == ctx.tenant.id, User.id == user_id).with_for_update())
    await _refuse_last_admin(ctx, user)
    # An invitation that is still open would let the deleted person in again.
    await ctx.session.execute(delete(Invitation).where(Invitation.tenant_id == ctx.tenant.id, Invitation.email == user.email))
    is_gone = await release_some(ctx.session, ctx.tenant.id, user_id)
    if is_gone:
        await ctx.session.execute(delete(User).where(User.tenant_id == ctx.tenant.id, User.id == user_id))
    elif user.is_active:
        user.is_active = False
        await revoke_sessions(ctx.session, ctx.tenant.id, user_id)
    else:
        return False
    await ctx.changed(user_id)
    return is_gone


async def _change_address(ctx: Context, user: User, email: str | None) -> None:
    """Have a new address wait until it is verified, when the unique key decides; with None, none any more. Raises `EmailTaken`, `MailThrottled`."""
    if email is not None:
        await refuse_taken(ctx.session, ctx.tenant.id, email)
        await refuse_flood(ctx.services, ctx.tenant.id, ctx.user.id, email)
        await post(ctx.session, ctx.tenant.id, MailTemplate.VERIFY_EMAIL, email, subject_id=user.id)
    user.pending_email = email


async def _lock_tenant(ctx: Context) -> None:
    """Have changes to who is an admin come one after the other. Counting without the lock lets two admins remove each other."""
    # FOR NO KEY UPDATE: the tenant's other writes, whose foreign keys look at this row, need not wait.
    await ctx.session.execute(select(Tenant.id).where(Tenant.id == ctx.tenant.id).with_for_update(key_share=True))


async def _refuse_last_admin(ctx: Context, user: User) -> None:
    """Raise `LastAdmin` where no other admin is active.

    One who has not chosen a password yet counts: `POST /auth/password/forgot` mails the link again to every active user.
    """
    if user.role != Role.ADMIN or not user.is_active:
        return
    others = select(func.count()).where(User.tenant_id == ctx.tenant.id, User.role == Role.ADMIN, User.is_active, User.id != user.id)
    if (await ctx.session.execute(others)).scalar_one() == 0:
        raise LastAdmin
