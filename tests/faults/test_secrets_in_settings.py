"""Refused settings do not show the secrets among them."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.config import Settings
from tests.test_config import SAFE, nothing_set_outside

__all__ = ["nothing_set_outside"]


@pytest.mark.parametrize("change", [{"allowed_hosts": "*"}, {"secret_key": "hunter2-hunter2"}, {"redis_timeout": "0"}])
def test_a_refusal_shows_no_secret(change: dict[str, Any]) -> None:
    values = {**SAFE, "secret_key": "the-secret-key-of-production-0123456789", "secret_keys_previous": "the-one-before-0123456789-0123456789", **change}
    with pytest.raises(ValidationError) as refused:
        Settings(_env_file=None, **values)
    for secret in (values["secret_key"], values["secret_keys_previous"], "swordfish"):
        # Nor any part of one, which is what is left where the text is shortened.
        assert secret not in str(refused.value)
        assert secret[:12] not in str(refused.value)
        assert secret[-12:] not in str(refused.value)
