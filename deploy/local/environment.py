"""Keeps the settings of the caller's shell away from tests and benchmarks, which choose their own."""

import os
from collections.abc import Mapping

from app.config import Settings


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without any setting of the service, in whichever case it is written."""
    return {name: value for name, value in environment.items() if name.lower() not in Settings.model_fields}


def forget_settings() -> None:
    """Remove them from this process's environment, and so from that of its children."""
    for name in os.environ.keys() - without_settings(os.environ).keys():
        del os.environ[name]
