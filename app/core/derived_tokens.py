"""Tokens that can be made again and so need not be stored: refresh tokens, and those that are mailed.

A token holds what it stands for (a tenant, a row of it, and a number) and 256 bits of HMAC-SHA256 over that under the service's key. PostgreSQL keeps only
the SHA-256 of the current one, so its rows alone open nothing; and the same token can be given out twice, after a lost answer or for a mail that is
sent again, without having been written down in between.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from app.config import Settings

NUMBER_BYTES, SEAL_BYTES = 4, 32
LAST_NUMBER = 256**NUMBER_BYTES - 1
TOKEN_BYTES = 16 + 16 + NUMBER_BYTES + SEAL_BYTES


class TokenKind(StrEnum):
    """What a token is for. One of another kind is never good, whatever it holds."""

    REFRESH = "refresh"
    MAILED = "mailed"
    INVITATION = "invitation"


class TokenName(NamedTuple):
    """What a token stands for: a row of a tenant, and for what is renewed, which one in its line it is."""

    tenant_id: UUID
    row_id: UUID
    number: int = 0


class DerivedTokens:
    """Makes tokens, and reads them."""

    def __init__(self, settings: Settings) -> None:
        keys = (settings.secret_key.get_secret_value(), *settings.secret_keys_previous)
        self._keys = [hashlib.sha256(b"derived-token:" + key.encode()).digest() for key in keys]

    def make(self, kind: TokenKind, name: TokenName) -> str:
        """Return the token of a row, under the current key."""
        return next(self._variants(kind, name))

    def again(self, kind: TokenKind, name: TokenName, stored_hash: bytes) -> str | None:
        """Return the token whose hash is stored: under the key that was current when it was made. None where that key is gone."""
        return next((token for token in self._variants(kind, name) if hmac.compare_digest(token_hash(token), stored_hash)), None)

    def is_ours(self, kind: TokenKind, token: str) -> bool:
        """Whether we made this very token, under a key that is still known."""
        name = name_of(token)
        return name is not None and any(hmac.compare_digest(token, variant) for variant in self._variants(kind, name))

    def _variants(self, kind: TokenKind, name: TokenName) -> Iterator[str]:
        body = name.tenant_id.bytes + name.row_id.bytes + name.number.to_bytes(NUMBER_BYTES, "big")
        for key in self._keys:
            yield _as_text(body + hmac.digest(key, kind.encode() + b":" + body, "sha256"))


def name_of(token: str) -> TokenName | None:
    """Return what a token says it stands for, true or not; None for what was never a token."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    # base64 overlooks the last character's spare bits; a token is good as it was written, and in no other way.
    if len(raw) != TOKEN_BYTES or _as_text(raw) != token:
        return None
    return TokenName(UUID(bytes=raw[:16]), UUID(bytes=raw[16:32]), int.from_bytes(raw[32 : 32 + NUMBER_BYTES], "big"))


def token_hash(token: str) -> bytes:
    """Return what is stored of a token. It has 256 bits that nobody can guess, so a fast hash is as good as a slow one."""
    return hashlib.sha256(token.encode()).digest()


def _as_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
