"""Passwords that are forgotten, reset and changed."""

from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.account_exceptions import LinkInvalid, WrongPassword
from app.core.networks import network_of
from app.core.passwords import refuse_weak
from app.core.tenancy import TenantInfo
from app.models import MailTemplate, OneTimeToken, TokenPurpose, User
from app.services.changes import telling
from app.services.container import Services
from app.services.mail import post
from app.services.one_time_tokens import find_token, use_token
from app.services.sessions import revoke_sessions
from app.services.sign_in import account


async def reset_password(services: Services, tenant: TenantInfo, token: str, password: str, *, ip_address: str | None) -> None:
    """Give whoever reads the mail of the token's address a new password, and end all sessions. For an hour they are known where they did so.

    Raises `LinkInvalid`, `WeakPassword`, `Overloaded`.
    """
    purpose = TokenPurpose.RESET_PASSWORD
    # Looked at before anything is hashed: a link that is no good must not cost us a quarter of a second.
    async with services.database.transaction(tenant.id) as session:
        found = await find_token(session, tenant.id, token, purpose)
    refuse_weak(password, email=found.email, tenant_name=tenant.name, tenant_slug=tenant.slug)
    password_hash = await services.passwords.hash(password)
    async with telling(services.stamps, tenant.id) as changes, services.database.transaction(tenant.id) as session:
        changing = (
            update(User)
            # The address may have been changed since the mail was sent; then its reader is no longer the account's owner.
            .where(User.tenant_id == tenant.id, User.id == found.user_id, User.email == found.email)
            .values(_another(password_hash) | {"email_verified": True})
            .returning(User.id)
        )
        # The user's row comes first: two links at once would otherwise wait for each other, as each ends the other.
        if (await session.execute(changing)).scalar_one_or_none() is None:
            raise LinkInvalid
        await use_token(session, tenant.id, token, purpose, used_from=ip_address)
        await _end_what_the_old_one_opened(session, tenant.id, found.user_id, found.email)
        await changes.announce(session, found.user_id)
    for network in ("", network_of(ip_address or "")):
        await services.throttle.forget(account(tenant.slug, found.email, network))


async def verified_password(services: Services, tenant: TenantInfo, user_id: UUID, password: str) -> User:
    """Return the user, whose password this is. Raises `WrongPassword`; after too many of them `SignInThrottled`, counted apart from those at sign-in."""
    async with services.database.transaction(tenant.id) as session:
        user = (await session.execute(select(User).where(User.tenant_id == tenant.id, User.id == user_id))).scalar_one_or_none()
    stored = user.password_hash if user else None
    right = await services.throttle.guess(f"change\0{tenant.id}\0{user_id}", lambda: services.passwords.verify(password, stored))
    if user is None or not right:
        raise WrongPassword
    return user


async def change_password(session: AsyncSession, user: User, password_hash: str, *, keep: UUID) -> None:
    """Store another password, and end all sessions but the one to keep. Raises `WrongPassword` where it was changed since the user was read."""
    changing = (
        update(User)
        .where(User.tenant_id == user.tenant_id, User.id == user.id, User.password_version == user.password_version)
        .values(_another(password_hash))
        .returning(User.id)
    )
    if (await session.execute(changing)).scalar_one_or_none() is None:
        raise WrongPassword
    await _end_what_the_old_one_opened(session, user.tenant_id, user.id, user.email, keep=keep)


def _another(password_hash: str) -> dict[str, Any]:
    """Return what a user has anew with another password. Mail that was asked for before, by the clock and not since the transaction began, sets none."""
    version = User.password_version + 1
    return {"password_hash": password_hash, "password_version": version, "password_changed_at": func.clock_timestamp(), "updated_at": func.now()}


async def _end_what_the_old_one_opened(session: AsyncSession, tenant_id: UUID, user_id: UUID, email: str, *, keep: UUID | None = None) -> None:
    """End the sessions and the open links for a reset, and tell the user."""
    links = (
        update(OneTimeToken)
        .where(
            OneTimeToken.tenant_id == tenant_id,
            OneTimeToken.user_id == user_id,
            OneTimeToken.purpose == TokenPurpose.RESET_PASSWORD,
            OneTimeToken.used_at.is_(None),
        )
        .values(used_at=func.now())
    )
    await session.execute(links, execution_options={"synchronize_session": False})
    await revoke_sessions(session, tenant_id, user_id, keep=keep)
    await post(session, tenant_id, MailTemplate.PASSWORD_CHANGED, email, subject_id=user_id)
