"""Tokens that were mailed: one use each."""

from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.account_exceptions import LinkInvalid
from app.core.derived_tokens import name_of, token_hash
from app.models import OneTimeToken, TokenPurpose


async def find_token(session: AsyncSession, tenant_id: UUID, token: str, purpose: TokenPurpose) -> OneTimeToken:
    """Return a token that could be used. Raises `LinkInvalid`."""
    asked = select(OneTimeToken).where(OneTimeToken.tenant_id == tenant_id, *_good(token, purpose))
    return _or_invalid((await session.execute(asked)).scalar_one_or_none())


async def use_token(session: AsyncSession, tenant_id: UUID, token: str, purpose: TokenPurpose, *, used_from: str | None = None) -> OneTimeToken:
    """Use a token, which is then used up if the transaction is committed. Of several at once one succeeds. Raises `LinkInvalid`.

    `used_from` is the address to be remembered with it.
    """
    using = update(OneTimeToken).where(OneTimeToken.tenant_id == tenant_id, *_good(token, purpose)).values(used_at=func.now(), used_from=used_from)
    result = await session.execute(using.returning(OneTimeToken), execution_options={"synchronize_session": False})
    return _or_invalid(result.scalar_one_or_none())


def _good(token: str, purpose: TokenPurpose) -> tuple[ColumnElement[bool], ...]:
    name = name_of(token)
    if name is None:
        raise LinkInvalid
    return (
        OneTimeToken.id == name.row_id,
        OneTimeToken.purpose == purpose,
        OneTimeToken.token_hash == token_hash(token),
        OneTimeToken.used_at.is_(None),
        OneTimeToken.expires_at > func.now(),
    )


def _or_invalid(found: OneTimeToken | None) -> OneTimeToken:
    if found is None:
        raise LinkInvalid
    return found
