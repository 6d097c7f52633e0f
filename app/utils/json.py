"""JSON as the API speaks it: UTC times with `Z`, lower-case UUIDs, UTF-8."""

from typing import Any

import pydantic_core


def to_json(value: Any) -> bytes:
    """Return the value as JSON. Knows times, UUIDs and Pydantic models; raises `PydanticSerializationError` for anything else."""
    return pydantic_core.to_json(value, inf_nan_mode="constants")


def from_json(text: str) -> Any:
    """Return the value of a JSON text. Raises `ValueError`."""
    return pydantic_core.from_json(text)
