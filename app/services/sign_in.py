"""Signing in: from an address and a password to a session's tokens."""

from datetime import timedelta

from sqlalchemy import func, select, update

from app.core.derived_tokens import TokenKind, TokenName, token_hash
from app.core.exceptions import AccountInactive, InvalidCredentials, TenantInactive
from app.core.tenancy import TenantName
from app.models import Session, User, new_id
from app.schemas.auth import Credentials, SignedIn
from app.schemas.user import UserRead
from app.services.container import Services
from app.services.sessions import LONGEST_USER_AGENT, signed_in


async def sign_in(services: Services, asked: Credentials, *, ip_address: str | None, user_agent: str | None) -> SignedIn:
    """Open a session.

    Raises `InvalidCredentials` alike for an unknown tenant, an unknown address and a wrong password, after the same work; only whoever has the right
    password learns that the account (`AccountInactive`) or the tenant (`TenantInactive`) is switched off.
    """
    tenant = await services.tenants.load(TenantName("slug", asked.tenant_slug.strip().lower()))
    user: User | None = None
    if tenant is not None:
        async with services.database.transaction(tenant.id) as session:
            user = (await session.execute(select(User).where(User.tenant_id == tenant.id, User.email == asked.email))).scalar_one_or_none()
    # Hashed outside any transaction: it takes a quarter of a second, and connections are few.
    right = await services.passwords.verify(asked.password, user.password_hash if user else None)
    if tenant is None or user is None or not right:
        raise InvalidCredentials
    if not tenant.is_active:
        raise TenantInactive
    if not user.is_active:
        raise AccountInactive
    return await open_session(services, user, ip_address=ip_address, user_agent=user_agent)


async def open_session(services: Services, user: User, *, ip_address: str | None, user_agent: str | None) -> SignedIn:
    """Record a session of the user and return its tokens. Raises `InvalidCredentials` where the user is gone or off by now."""
    session_id = new_id()
    refresh_token = services.derived_tokens.make(TokenKind.REFRESH, TokenName(user.tenant_id, session_id))
    lifetime = timedelta(days=services.settings.refresh_token_days)
    async with services.database.transaction(user.tenant_id) as session:
        seen = (
            update(User)
            .where(User.tenant_id == user.tenant_id, User.id == user.id, User.is_active, User.password_hash == user.password_hash)
            .values(last_login_at=func.now())
            .returning(User)
        )
        current = (await session.execute(seen, execution_options={"populate_existing": True})).scalar_one_or_none()
        if current is None:
            raise InvalidCredentials
        session.add(
            Session(
                tenant_id=user.tenant_id,
                id=session_id,
                user_id=user.id,
                refresh_token_hash=token_hash(refresh_token),
                ip_address=ip_address,
                user_agent=user_agent[:LONGEST_USER_AGENT] if user_agent else None,
                expires_at=func.now() + lifetime,
            )
        )
        answer = UserRead.model_validate(current)
    return signed_in(services, user.tenant_id, session_id, refresh_token, answer)
