"""Registration: founding a tenant, or joining one."""

from uuid import UUID

from sqlalchemy import exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.account_exceptions import InvitationInvalid
from app.core.exceptions import EmailTaken, RegistrationClosed, SlugTaken, TenantInactive, Unprocessable
from app.core.passwords import refuse_weak
from app.core.tenancy import TenantInfo, TenantName, is_valid_name
from app.database_faults import violated_constraint
from app.models import MailTemplate, RegistrationPolicy, Role, Tenant, User, new_id
from app.schemas.auth import Registered, Registration
from app.schemas.tenant import TenantSummary
from app.schemas.user import UserRead
from app.services.container import Services
from app.services.invitations import use_invitation
from app.services.mail import post


async def register(services: Services, asked: Registration) -> Registered:
    """Register a person, and return the user and the tenant.

    A free slug founds a tenant with an admin, in one transaction; with an invitation it founds nothing. Raises `EmailTaken`, `SlugTaken`,
    `RegistrationClosed`, `InvitationInvalid`, `TenantInactive`, `WeakPassword`, `CaptchaRequired`, `CaptchaInvalid`.
    """
    name = TenantName("slug", asked.tenant_slug)
    tenant = await services.tenants.load(name)
    _refuse_closed(tenant, asked)
    tenant_name = tenant.name if tenant else asked.tenant_name or asked.tenant_slug
    refuse_weak(asked.password, email=asked.email, tenant_name=tenant_name, tenant_slug=asked.tenant_slug)
    # Only now: what is refused for another reason has used no solution up. Before hashing: that is the work which the proof is the price of.
    await services.captcha.demand(asked.captcha)
    password_hash = await services.passwords.hash(asked.password)
    if tenant is None:
        if not is_valid_name(asked.tenant_slug):
            raise Unprocessable("This slug is reserved. Choose another one.", location=("body", "tenant_slug"))
        founded = await _found(services, asked, password_hash)
        if founded is not None:
            return founded
        # Somebody founded it while we were at it.
        tenant = await services.tenants.load(name)
        _refuse_closed(tenant, asked)
        if tenant is None:
            raise SlugTaken
    return await _join(services, tenant, asked, password_hash)


def _refuse_closed(tenant: TenantInfo | Tenant | None, asked: Registration) -> None:
    invited = asked.invitation_token is not None
    if tenant is None:
        if invited:
            raise InvitationInvalid
        return
    if not tenant.is_active:
        raise TenantInactive
    if tenant.registration_policy == RegistrationPolicy.INVITE_ONLY and not invited:
        raise RegistrationClosed


async def _found(services: Services, asked: Registration, password_hash: str) -> Registered | None:
    """Make the tenant and its first admin; None where the slug was taken meanwhile."""
    tenant_id = new_id()
    async with services.database.transaction(tenant_id) as session:
        await lock_tenant_names(session)
        await refuse_foreign_subdomain(session, asked.tenant_slug)
        founding = (
            insert(Tenant)
            .values(id=tenant_id, slug=asked.tenant_slug, subdomain=asked.tenant_slug, name=asked.tenant_name or asked.tenant_slug)
            .on_conflict_do_nothing(index_elements=["slug"])
            .returning(Tenant.id)
        )
        if (await session.execute(founding)).scalar_one_or_none() is None:
            return None
        user = await add_user(session, tenant_id, asked, password_hash, role=Role.ADMIN, is_active=True)
        tenant = await session.get_one(Tenant, tenant_id)
        return _registered(user, TenantSummary.model_validate(tenant))


async def _join(services: Services, tenant: TenantInfo, asked: Registration, password_hash: str) -> Registered:
    async with services.database.transaction(tenant.id) as session:
        # Anew, and held: it may have been closed while the password was hashed.
        current = (await session.execute(select(Tenant).where(Tenant.id == tenant.id).with_for_update(read=True))).scalar_one()
        _refuse_closed(current, asked)
        if asked.invitation_token is None:
            is_active = current.registration_policy == RegistrationPolicy.OPEN
            user = await add_user(session, tenant.id, asked, password_hash, role=Role.VIEWER, is_active=is_active)
        else:
            role = await use_invitation(session, tenant.id, asked.invitation_token, asked.email)
            # The token came by mail, so whoever has it reads the mail of this address.
            user = await add_user(session, tenant.id, asked, password_hash, role=role, is_active=True, email_verified=True)
        return _registered(user, TenantSummary.model_validate(current))


async def add_user(
    session: AsyncSession,
    tenant_id: UUID,
    asked: Registration,
    password_hash: str,
    *,
    role: Role,
    is_active: bool,
    email_verified: bool = False,
) -> User:
    """Add a user, who is mailed a link to verify the address. Raises `EmailTaken`."""
    user = User(
        tenant_id=tenant_id,
        email=asked.email,
        full_name=asked.full_name,
        role=role,
        is_active=is_active,
        email_verified=email_verified,
        password_hash=password_hash,
    )
    session.add(user)
    await flush_user(session)
    await session.refresh(user)
    if not email_verified:
        await post(session, tenant_id, MailTemplate.VERIFY_EMAIL, user.email, subject_id=user.id)
    return user


async def flush_user(session: AsyncSession) -> None:
    """Send a new or changed user to PostgreSQL. Raises `EmailTaken`."""
    try:
        await session.flush()
    except IntegrityError as error:
        if violated_constraint(error) == "uq_users_tenant_id_email":
            raise EmailTaken from None
        raise


async def refuse_taken(session: AsyncSession, tenant_id: UUID, email: str) -> None:
    """Raise `EmailTaken` where the address is that of a user of the tenant."""
    taken = exists().where(User.tenant_id == tenant_id, User.email == email)
    if (await session.execute(select(taken))).scalar_one():
        raise EmailTaken


async def lock_tenant_names(session: AsyncSession) -> None:
    """Until the transaction ends, let nobody else take a slug or a subdomain: each must differ from all of both kinds."""
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtext("tenant names"))))


async def refuse_foreign_subdomain(session: AsyncSession, slug: str) -> None:
    """Raise `SlugTaken` where the slug is another tenant's subdomain: one name must never mean two tenants."""
    taken = exists().where(Tenant.subdomain == slug, Tenant.slug != slug)
    if (await session.execute(select(taken))).scalar_one():
        raise SlugTaken


def _registered(user: User, tenant: TenantSummary) -> Registered:
    return Registered(**UserRead.model_validate(user).model_dump(), tenant=tenant)
