"""Signing in: from an address and a password to a session's tokens."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update

from app.core.account_exceptions import EmailNotVerified
from app.core.derived_tokens import TokenKind, TokenName, token_hash
from app.core.exceptions import AccountInactive, InvalidCredentials, Overloaded, TenantInactive
from app.core.tenancy import TenantName
from app.core.throttle import Pace
from app.models import MailTemplate, Session, User, new_id
from app.schemas.auth import Credentials, SignedIn
from app.schemas.user import UserRead
from app.services.changes import telling
from app.services.container import Services
from app.services.mail import post
from app.services.places import is_new_place, known_addresses, known_network
from app.services.sessions import LONGEST_USER_AGENT, make_room, signed_in

NO_TENANT = UUID(int=0)
# A program that calls itself something else each time is at a new place each time; and its address may be a stranger's, who has not verified it.
NEWS = Pace(free=5, first_pause=3600, longest_pause=3600, memory=3600)


async def sign_in(services: Services, asked: Credentials, *, ip_address: str | None, user_agent: str | None) -> SignedIn:
    """Open a session.

    Raises `InvalidCredentials` alike for an unknown tenant, an unknown address and a wrong password, after the same work, and `SignInThrottled` alike once
    there were too many of them; only whoever has the right password learns that the tenant (`TenantInactive`) or the account (`AccountInactive`) is
    switched off, or that the address is not verified where that is demanded (`EmailNotVerified`).
    """
    tenant = await services.tenants.load(TenantName("slug", asked.tenant_slug.strip().lower()))
    # Without a tenant the same question is asked, and nobody found.
    tenant_id = tenant.id if tenant else NO_TENANT
    async with services.database.transaction(tenant_id) as session:
        whom = select(User, known_addresses(tenant_id)).where(User.tenant_id == tenant_id, User.email == asked.email)
        user, addresses = (await session.execute(whom)).one_or_none() or (None, [])
    subject = account(asked.tenant_slug, asked.email, known_network(ip_address, addresses))
    stored = user.password_hash if user else None
    # Hashed outside any transaction: it takes a quarter of a second, and connections are few. Admitted just before, and not earlier: of many guesses
    # at once no more are made than are hashed at once.
    right = await services.throttle.guess(subject, lambda: services.passwords.verify(asked.password, stored))
    if tenant is None or user is None or not right:
        raise InvalidCredentials
    if not tenant.is_active:
        raise TenantInactive
    if not user.is_active:
        raise AccountInactive
    if services.settings.demands_verified_email and not user.email_verified:
        raise EmailNotVerified
    rehashed = await _rehashed(services, user, asked.password)
    return await open_session(services, user, ip_address=ip_address, user_agent=user_agent, rehashed=rehashed)


async def _rehashed(services: Services, user: User, password: str) -> str | None:
    """Return a hash of the present cost, where the stored one has another: by the time it takes, the account could be told from an unknown one."""
    if user.password_hash is None or not services.passwords.is_outdated(user.password_hash):
        return None
    try:
        return await services.passwords.hash(password)
    except Overloaded:
        # Another time: nobody is to be turned away for it.
        return None


def account(tenant_slug: str, email: str, network: str = "") -> str:
    """Return what wrong passwords of an account are counted under, whether there is such an account or not.

    Those from a `network` that the account is known at are counted by themselves, so that no stranger keeps its owner out; all others together.
    """
    # The network comes first: nothing that a stranger may send as slug or address looks like one.
    return f"sign-in\0{network}\0{tenant_slug.strip().lower()}\0{email}"


async def open_session(services: Services, user: User, *, ip_address: str | None, user_agent: str | None, rehashed: str | None) -> SignedIn:
    """Record a session of the user and return its tokens. `rehashed` takes the place of the password's hash, if given.

    Raises `InvalidCredentials` where the user is gone, off or has another password by now.

    A sign-in from a place that the user has not been at lately, unless it is the first of all, is told to the user by mail, five times an hour at the most.
    Beyond so many sessions it ends another one of the user's.
    """
    session_id = new_id()
    refresh_token = services.derived_tokens.make(TokenKind.REFRESH, TokenName(user.tenant_id, session_id))
    lifetime = timedelta(days=services.settings.refresh_token_days)
    user_agent = user_agent[:LONGEST_USER_AGENT] if user_agent else None
    async with telling(services.stamps, user.tenant_id) as changes, services.database.transaction(user.tenant_id) as session:
        seen = (
            update(User)
            .where(User.tenant_id == user.tenant_id, User.id == user.id, User.is_active, User.password_version == user.password_version)
            .values({"last_login_at": func.now(), **({"password_hash": rehashed} if rehashed else {})})
            .returning(User)
        )
        current = (await session.execute(seen, execution_options={"populate_existing": True})).scalar_one_or_none()
        if current is None:
            raise InvalidCredentials
        is_news = await is_new_place(session, user, ip_address, user_agent)
        if is_news and await services.throttle.take(f"news\0{user.tenant_id}\0{user.id}", NEWS):
            await post(session, user.tenant_id, MailTemplate.NEW_SIGN_IN, current.email, subject_id=user.id, ip_address=ip_address, user_agent=user_agent)
        await make_room(session, changes, user.tenant_id, user.id)
        session.add(
            Session(
                tenant_id=user.tenant_id,
                id=session_id,
                user_id=user.id,
                refresh_token_hash=token_hash(refresh_token),
                ip_address=ip_address,
                user_agent=user_agent,
                expires_at=func.now() + lifetime,
            )
        )
        answer = UserRead.model_validate(current)
        # GET /auth/me shows when they last signed in, out of what servers remember.
        changes.users.add(user.id)
    return signed_in(services, user.tenant_id, session_id, refresh_token, answer)
