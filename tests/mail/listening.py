"""What modules log, of every level, whatever the application that runs in the same process has set."""

from collections.abc import MutableMapping
from types import ModuleType
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture


def listen_to(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> list[MutableMapping[str, Any]]:
    """Return the list to which each line is added that the modules log from now on."""
    capture = LogCapture()
    for module in modules:
        logger = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(0))
        monkeypatch.setattr(module, "log", logger)
    return capture.entries
