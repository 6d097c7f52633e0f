"""JSON as the API speaks it: UTC times with `Z`, lower-case UUIDs, UTF-8.

By msgspec, which writes a page of twenty rows in a tenth of the time that Pydantic takes, and knows the driver's own UUID type.
"""

from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()
_lenient_encoder = msgspec.json.Encoder(enc_hook=repr)


def to_json(value: Any) -> bytes:
    """Return the value as JSON. Knows times, UUIDs and enums; raises `TypeError` for what it does not know."""
    return _encoder.encode(value)


def to_json_leniently(value: Any) -> bytes:
    """Return the value as JSON, for people to read: what has no JSON form is shown as Python shows it."""
    return _lenient_encoder.encode(value)


def from_json(text: bytes) -> Any:
    """Return the value of a JSON text. Raises `msgspec.DecodeError`, a `ValueError`."""
    return msgspec.json.decode(text)
