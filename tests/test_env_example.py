"""`.env.example` shows every setting, and nothing else, with its default; and containers are handed all of them."""

import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # of no interest but here
from pydantic import ValidationError

from app.config import EMPTY_MEANS_SOMETHING, Settings

EXAMPLE = Path(__file__).parents[1] / ".env.example"
SETTING = re.compile(r"^#?([A-Z][A-Z0-9_]*)=", re.MULTILINE)

# What only an installation can say is shown as a comment, and so has an example instead of the default.
EXAMPLES = {"metrics_port", "worker_metrics_port", "database_admin_url", "database_listen_url", "email_verification_required", "smtp_url"}

# What `docker compose` does not hand on from the environment to the API.
NOT_HANDED_ON = {
    "DATABASE_ADMIN_URL": "the step that prepares the database has it, and nobody else",
    "DATABASE_LISTEN_URL": "there is no PgBouncer to get around",
    "WORKER_METRICS_PORT": "the worker's alone, and fixed, because its health check asks there",
}
# What is made there out of other variables: the services' names and passwords, the published port.
MADE_THERE = {"DATABASE_URL", "REDIS_URL", "PUBLIC_URL"}


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


def test_containers_are_handed_every_setting_that_the_example_shows() -> None:
    compose = yaml.safe_load((EXAMPLE.parent / "docker-compose.yml").read_text())
    handed = compose["services"]["api"]["environment"]
    assert sorted([*handed, *NOT_HANDED_ON]) == sorted(SETTING.findall(EXAMPLE.read_text()))
    # One that has no value is left out by `docker compose` where it is not set; one with a value is the same for everybody.
    assert {name for name, value in handed.items() if value is not None} == MADE_THERE
    for service, more in {"worker": {"WORKER_METRICS_PORT"}, "prepare": {"DATABASE_ADMIN_URL"}}.items():
        assert set(compose["services"][service]["environment"]) == {*handed, *more}


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - EMPTY_MEANS_SOMETHING))
def test_an_empty_value_is_the_default(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name.upper(), "")
    assert Settings(_env_file=None) == Settings(_env_file=None, **{name: Settings.model_fields[name].get_default(call_default_factory=True)})
    assert name not in Settings(_env_file=None).model_fields_set


def test_an_empty_list_is_empty_and_an_empty_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EMPTY_MEANS_SOMETHING - {"environment"}:
        monkeypatch.setenv(name.upper(), "")
    read = Settings(_env_file=None)
    assert (read.base_domain, read.allowed_hosts, read.allowed_origins, read.trusted_proxies, read.secret_keys_previous) == ("", (), (), (), ())
    # Whoever leaves it out by mistake in production should not run what is fit for development only.
    monkeypatch.setenv("ENVIRONMENT", "")
    with pytest.raises(ValidationError):
        Settings(_env_file=None)
