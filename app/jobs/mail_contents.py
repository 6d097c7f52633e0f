"""What a mail says, looked up at the moment it is sent: who it is to, and the link in it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.derived_tokens import TokenKind, TokenName, token_hash
from app.jobs.registry import GiveUp, TenantJob
from app.models import Invitation, Mail, MailTemplate, OneTimeToken, Tenant, TokenPurpose, User
from app.utils.text import presentable

# What the link of a mail is for, how long it lives from the attempt on that sends it, and which page it opens.
LINKS: dict[str, tuple[TokenPurpose, timedelta, str]] = {
    MailTemplate.VERIFY_EMAIL: (TokenPurpose.VERIFY_EMAIL, timedelta(hours=24), "verify-email"),
    MailTemplate.RESET_PASSWORD: (TokenPurpose.RESET_PASSWORD, timedelta(minutes=30), "reset-password"),
    MailTemplate.SET_PASSWORD: (TokenPurpose.RESET_PASSWORD, timedelta(days=7), "reset-password"),
}
SETTING_PASSWORDS = (MailTemplate.RESET_PASSWORD, MailTemplate.SET_PASSWORD)
LONGEST_USER_AGENT = 160


async def contents_of(job: TenantJob, session: AsyncSession, mail: Mail) -> dict[str, Any] | None:
    """Return what the mail's template shows; None where nobody is to get it: there is no such user, or what it asks for is done. Raises `GiveUp`.

    A suspended tenant sends no mail: it may be suspended for what it sends.
    """
    tenant = await session.get_one(Tenant, job.tenant_id)
    if not tenant.is_active:
        return None
    contents: dict[str, Any] = {"tenant": presentable(tenant.name, otherwise=tenant.slug), "name": "", "time": in_words(mail.created_at)}
    if mail.template == MailTemplate.INVITATION:
        return await _invitation(job, session, mail, tenant, contents)
    user = (await session.execute(_whom(mail))).scalar_one_or_none()
    if user is None:
        return None
    contents["name"] = presentable(user.full_name, otherwise="")
    if mail.template == MailTemplate.NEW_SIGN_IN:
        contents["ip_address"] = mail.data.get("ip_address")
        contents["user_agent"] = presentable(mail.data.get("user_agent") or "", otherwise="", longest=LONGEST_USER_AGENT)
    if mail.template in LINKS:
        purpose, lifetime, page = LINKS[mail.template]
        token = await _token(job, session, mail, user, purpose, lifetime)
        if token is None:
            return None
        contents["link"] = _link(job, page, tenant, token=token)
    return contents


def _whom(mail: Mail) -> Select[User]:
    """Return the query for the user that the mail is to."""
    fitting: ColumnElement[bool] = User.email == mail.recipient
    if mail.template == MailTemplate.VERIFY_EMAIL:
        fitting = or_(and_(fitting, ~User.email_verified), User.pending_email == mail.recipient)
    elif mail.template == MailTemplate.RESET_PASSWORD:
        # A link that was asked for before the password was set would still be good after it, in whosever hands.
        fitting = and_(fitting, User.is_active, or_(User.password_changed_at.is_(None), User.password_changed_at < mail.created_at))
    elif mail.template == MailTemplate.SET_PASSWORD:
        fitting = and_(fitting, User.is_active, User.password_hash.is_(None))
    elif mail.subject_id is not None:
        # News for whoever had this address when it happened.
        fitting = User.id == mail.subject_id
    query = select(User).where(User.tenant_id == mail.tenant_id, fitting)
    if mail.subject_id is not None:
        query = query.where(User.id == mail.subject_id)
    # Several may wait for the same new address; whoever has it already comes first.
    query = query.order_by((User.email == mail.recipient).desc(), User.updated_at.desc()).limit(1)
    # So that a password which is being set at this moment is set before the link is made, and ends it, or after.
    return query.with_for_update(read=True) if mail.template in SETTING_PASSWORDS else query


async def _token(job: TenantJob, session: AsyncSession, mail: Mail, user: User, purpose: TokenPurpose, lifetime: timedelta) -> str | None:
    """Return the mail's token, the same at each attempt, good from now on; None where it was used, so that an earlier attempt had arrived."""
    name, tokens = TokenName(job.tenant_id, mail.id), job.tools.derived_tokens
    asked = select(OneTimeToken).where(OneTimeToken.tenant_id == job.tenant_id, OneTimeToken.id == mail.id).with_for_update()
    stored = (await session.execute(asked)).scalar_one_or_none()
    if stored is None:
        token = tokens.make(TokenKind.MAILED, name)
        stored = OneTimeToken(tenant_id=job.tenant_id, id=mail.id, user_id=user.id, purpose=purpose, email=mail.recipient)
        session.add(stored)
    elif stored.used_at is not None:
        return None
    else:
        token = tokens.again(TokenKind.MAILED, name, stored.token_hash) or tokens.make(TokenKind.MAILED, name)
    stored.token_hash = token_hash(token)
    # By PostgreSQL's clock, which is the one that it will be compared with.
    stored.expires_at = func.now() + lifetime
    return token


async def _invitation(job: TenantJob, session: AsyncSession, mail: Mail, tenant: Tenant, contents: dict[str, Any]) -> dict[str, Any] | None:
    """Add what an invitation shows; None where it is withdrawn, accepted or over."""
    open_one = (Invitation.id == mail.subject_id, Invitation.email == mail.recipient, Invitation.expires_at > func.now())
    invitation = (await session.execute(select(Invitation).where(Invitation.tenant_id == job.tenant_id, *open_one))).scalar_one_or_none()
    if invitation is None:
        return None
    inviter = await session.execute(select(User.full_name).where(User.tenant_id == job.tenant_id, User.id == invitation.invited_by))
    token = job.tools.derived_tokens.again(TokenKind.INVITATION, TokenName(job.tenant_id, invitation.id), invitation.token_hash)
    if token is None:
        raise GiveUp("the key under which this invitation was made is no longer among SECRET_KEYS_PREVIOUS: invite again")
    return {
        **contents,
        "inviter": presentable(inviter.scalar_one_or_none() or "", otherwise=""),
        "role": invitation.role,
        "until": in_words(invitation.expires_at),
        "link": _link(job, "accept-invitation", tenant, token=token, email=mail.recipient),
    }


def _link(job: TenantJob, page: str, tenant: Tenant, **fragment: str) -> str:
    """Return the link to a page. What is secret stands behind the #, which browsers keep to themselves."""
    return f"{job.tools.settings.public_url.rstrip('/')}/account/{page}?tenant={quote(tenant.slug)}#{urlencode(fragment, quote_via=quote)}"


def in_words(time: datetime) -> str:
    """Return a time as people write it, in UTC."""
    utc = time.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y, %H:%M} UTC"
