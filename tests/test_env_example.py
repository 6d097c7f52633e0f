"""`.env.example` shows every setting, and nothing else, with its default."""

import re
from pathlib import Path

import pytest

from app.config import Settings

EXAMPLE = Path(__file__).parents[1] / ".env.example"
SETTING = re.compile(r"^#?([A-Z][A-Z0-9_]*)=", re.MULTILINE)

# What only an installation can say is shown as a comment, and so has an example instead of the default.
EXAMPLES = {"metrics_port", "worker_metrics_port", "database_admin_url", "database_listen_url", "email_verification_required", "smtp_url"}


@pytest.fixture(autouse=True)
def nothing_set_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_example_names_each_setting_once() -> None:
    assert sorted(SETTING.findall(EXAMPLE.read_text())) == sorted(name.upper() for name in Settings.model_fields)


def test_the_example_copied_as_it_is_changes_nothing() -> None:
    assert Settings(_env_file=EXAMPLE) == Settings(_env_file=None)


def test_what_the_example_shows_as_a_comment_is_the_default_or_loads(tmp_path: Path) -> None:
    uncommented = tmp_path / "env"
    uncommented.write_text(SETTING.sub(r"\1=", EXAMPLE.read_text()))
    shown = Settings(_env_file=uncommented).model_dump()
    default = Settings(_env_file=None).model_dump()
    assert {name for name in shown if shown[name] != default[name]} == EXAMPLES
