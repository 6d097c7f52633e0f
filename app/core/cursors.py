"""Opaque cursors: where a list goes on, bound by a signature to the tenant, the list, its filters and its sort."""

import base64
import binascii
import hashlib
import hmac
from datetime import datetime
from typing import Any
from uuid import UUID

from app.config import Settings
from app.core.exceptions import InvalidCursor
from app.utils.json import from_json, to_json

SIGNATURE_BYTES = 16


class Cursors:
    """Writes and reads cursors. A cursor holds the last row's sort value and identifier."""

    def __init__(self, settings: Settings) -> None:
        self._keys = [hashlib.sha256(b"cursor:" + key.encode()).digest() for key in (settings.secret_key.get_secret_value(), *settings.secret_keys_previous)]

    def write(self, binding: object, value: object, row_id: UUID) -> str:
        """Return the cursor behind a row. `binding` is everything that the list depends on."""
        payload = to_json([value, row_id])
        return _as_text(self._sign(self._keys[0], binding, payload) + payload)

    def read(self, cursor: str, binding: object, kind: type[Any]) -> tuple[Any, UUID]:
        """Return the sort value, as a `kind`, and the identifier. Raises `InvalidCursor`."""
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise InvalidCursor from None
        # base64 overlooks the last character's spare bits; a cursor is good as it was written, and in no other way.
        if _as_text(raw) != cursor:
            raise InvalidCursor
        signature, payload = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
        if not any(hmac.compare_digest(signature, self._sign(key, binding, payload)) for key in self._keys):
            raise InvalidCursor
        value, row_id = from_json(payload)
        return (datetime.fromisoformat(value) if kind is datetime else value), UUID(row_id)

    @staticmethod
    def _sign(key: bytes, binding: object, payload: bytes) -> bytes:
        bound = to_json(binding)
        return hmac.digest(key, len(bound).to_bytes(4, "big") + bound + payload, "sha256")[:SIGNATURE_BYTES]


def _as_text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
