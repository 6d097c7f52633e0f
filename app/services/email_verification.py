"""Verifying that somebody reads the mail of an address."""

from sqlalchemy import func, select

from app.core.account_exceptions import LinkInvalid
from app.core.tenancy import TenantInfo
from app.models import MailTemplate, TokenPurpose, User
from app.services.changes import telling
from app.services.container import Services
from app.services.mail import post
from app.services.one_time_tokens import find_token, use_token
from app.services.registration import flush_user


async def verify_email(services: Services, tenant: TenantInfo, token: str) -> None:
    """Take the token's address for verified; where it is the user's new one, it counts from now on, and the old one is told.

    Raises `LinkInvalid`, also where the user has another address by now, and `EmailTaken` where somebody else has the new one; the token then stays unused.
    """
    async with telling(services.stamps, tenant.id) as changes, services.database.transaction(tenant.id) as session:
        found = await find_token(session, tenant.id, token, TokenPurpose.VERIFY_EMAIL)
        # The user before the token, as whoever deletes the user takes them: the other way round, each would wait for the other.
        of_token = select(User).where(User.tenant_id == tenant.id, User.id == found.user_id).with_for_update()
        user = (await session.execute(of_token)).scalar_one_or_none()
        if user is None:
            raise LinkInvalid
        used = await use_token(session, tenant.id, token, TokenPurpose.VERIFY_EMAIL)
        if used.email == user.pending_email:
            if user.email_verified:
                # An address that nobody has verified may be a stranger's, whom our news do not concern.
                await post(session, tenant.id, MailTemplate.ADDRESS_CHANGED, user.email, subject_id=user.id)
            user.email, user.pending_email = used.email, None
        elif used.email != user.email:
            raise LinkInvalid
        user.email_verified = True
        user.updated_at = func.now()
        await flush_user(session)
        await changes.announce(session, used.user_id)
