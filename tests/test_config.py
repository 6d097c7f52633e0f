"""Settings: unsafe ones are refused in production, one by one and with a sentence; the rest is read as it was meant."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.config import DEVELOPMENT_SECRET, BadSettings, Settings, TierLimits, default_tiers, get_settings, with_driver
from tests.faults.support import ROOT, process

GOOD_SECRET = "a-secret-of-production-which-is-long-enough"
SAFE: dict[str, Any] = {
    "environment": "production",
    "secret_key": GOOD_SECRET,
    "allowed_hosts": "api.example.com",
    "base_domain": "example.com",
    "public_url": "https://app.example.com",
    "smtp_url": "smtp+starttls://saas:swordfish@mail.example.com:587",
    "mail_from": "Acme <no-reply@mail.example.com>",
    "database_url": "postgresql://service:swordfish@db.example.com/saas",
}


@pytest.fixture(autouse=True)
def nothing_set_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


# ─── Production ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_safe_settings_are_accepted_in_production() -> None:
    assert settings(**SAFE).environment == "production"
    assert settings(**{**SAFE, "base_domain": ""}).environment == "production"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"secret_key": DEVELOPMENT_SECRET}, "SECRET_KEY must be set"),
        ({"secret_key": "x" * 31}, "at least 32 characters"),
        ({"secret_keys_previous": DEVELOPMENT_SECRET}, "SECRET_KEY must be set"),
        ({"secret_keys_previous": f"{GOOD_SECRET}, short"}, "at least 32 characters"),
        ({"allowed_hosts": "*"}, "ALLOWED_HOSTS must name the hosts"),
        ({"allowed_hosts": "api.example.com,*"}, "ALLOWED_HOSTS must name the hosts"),
        ({"allowed_origins": "*"}, "ALLOWED_ORIGINS must not be *"),
        ({"allowed_origins": "https://app.example.com,*"}, "ALLOWED_ORIGINS must not be *"),
        ({"base_domain": "localhost"}, "BASE_DOMAIN must be your domain"),
        ({"public_url": "http://app.example.com"}, "PUBLIC_URL must be the https:// address"),
        ({"smtp_url": None}, "SMTP_URL must name the server"),
        ({"mail_from": "SaaS platform <no-reply@example.com>"}, "MAIL_FROM must be an address of yours"),
        ({"password_hash_rounds": 11}, "PASSWORD_HASH_ROUNDS must be at least 12"),
    ],
)
def test_each_unsafe_setting_is_refused_in_production_with_a_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings(**{**SAFE, **change})
    text = str(refused.value)
    assert "ENVIRONMENT is production, but: " in text
    assert sentence in text
    # One is wrong, so one is named.
    assert text.count(" must ") == 1
    # And elsewhere it does no harm.
    assert settings(**{**SAFE, **change, "environment": "development"})


def test_all_that_is_unsafe_is_named_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        settings(environment="production")
    assert str(refused.value).count(" must ") == 6


def test_development_needs_no_settings_at_all() -> None:
    assert settings().environment == "development"


@pytest.mark.parametrize("environment", ["staging", "Production", ""])
def test_an_unknown_environment_is_refused(environment: str) -> None:
    with pytest.raises(ValidationError):
        settings(environment=environment)


# ─── Reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{one}", ("{one}",)),
        ("{one},{two}", ("{one}", "{two}")),
        (" {one} , {two} ,", ("{one}", "{two}")),
        ("", ()),
        (" , ", ()),
    ],
)
@pytest.mark.parametrize("name", ["allowed_hosts", "allowed_origins", "trusted_proxies", "secret_keys_previous"])
def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: tuple[str, ...]) -> None:
    values = {"one": "10.0.0.1", "two": "fd00::/8"} if name == "trusted_proxies" else {"one": "a.example.com", "two": "b.example.com"}
    monkeypatch.setenv(name.upper(), text.format(**values))
    assert getattr(settings(), name) == tuple(item.format(**values) for item in expected)


def test_tiers_are_json_and_replace_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    tiers = {name: limits.model_dump() for name, limits in default_tiers().items()}
    tiers["free"] |= {"requests_per_minute": 7, "projects": None}
    monkeypatch.setenv("TIERS", json.dumps(tiers))
    read = settings().tiers
    assert read["free"] == TierLimits(requests_per_minute=7, burst=60, users=10, projects=None, resources=1_000, audit_days=30)
    assert read["basic"] == default_tiers()["basic"]


@pytest.mark.parametrize("tiers", ['{"free": {}}', "{}", "nonsense", '{"free": 1}'])
def test_tiers_that_cannot_be_used_are_refused(monkeypatch: pytest.MonkeyPatch, tiers: str) -> None:
    monkeypatch.setenv("TIERS", tiers)
    with pytest.raises(ValueError, match=r"(?i)tiers"):
        settings()


def test_a_missing_tier_is_named() -> None:
    tiers = default_tiers()
    del tiers["premium"], tiers["enterprise"]
    with pytest.raises(ValidationError, match="TIERS lacks enterprise, premium"):
        settings(tiers=tiers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("drain_seconds", "-1"),
        ("redis_timeout", "0"),
        ("database_pool_size", "0"),
        ("metrics_port", "70000"),
        ("rate_limit_fallback", "maybe"),
        ("view_flush_seconds", "0"),
        ("anonymous_burst", "0"),
        ("max_body_bytes", "-5"),
    ],
)
def test_values_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(ValidationError):
        settings()


def test_the_environment_comes_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("BASE_DOMAIN=from-the-file.example.com\nLOG_LEVEL=ERROR\nUNKNOWN=ignored\n")
    monkeypatch.setenv("BASE_DOMAIN", "from-the-environment.example.com")
    read = Settings(_env_file=file)
    assert (read.base_domain, read.log_level) == ("from-the-environment.example.com", "ERROR")


def test_settings_are_read_once() -> None:
    assert get_settings() is get_settings()


def test_settings_do_not_show_secrets() -> None:
    shown = settings(**SAFE, database_admin_url="postgresql://owner:open-sesame@db/saas", redis_url="redis://:rosebud@cache/0")
    for secret in (GOOD_SECRET, "swordfish", "open-sesame", "rosebud"):
        assert secret not in repr(shown)
        assert secret not in str(shown)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("DATABASE_POOL_SIZE", "many", "DATABASE_POOL_SIZE: Input should be a valid integer"),
        ("DATABASE_URL", "mysql://service:hunter2@db/saas", "DATABASE_URL is not a URL such as postgresql://"),
        ("DATABASE_URL", "postgresql://service:hunter2@db:port/saas", "DATABASE_URL is not a URL such as postgresql://"),
        ("DATABASE_ADMIN_URL", "hunter2", "DATABASE_ADMIN_URL is not a URL such as postgresql://"),
        ("DATABASE_LISTEN_URL", "hunter2", "DATABASE_LISTEN_URL is not a URL such as postgresql://"),
        ("REDIS_URL", "http://:hunter2@cache", "REDIS_URL is not a URL such as redis://"),
        ("REDIS_URL", "redis://:hunter2@cache:port", "REDIS_URL is not a URL such as redis://"),
        ("TIERS", '{"free": hunter2}', "TIERS is no JSON"),
        ("TIERS", '{"free": {"burst": 0}}', "TIERS.free."),
        ("TRUSTED_PROXIES", "10.0.0.0/8,10.0.0.1/33", "TRUSTED_PROXIES names addresses and networks, such as 10.0.0.0/8, and '10.0.0.1/33' is neither"),
    ],
)
def test_what_cannot_be_is_one_sentence_that_names_the_variable_and_shows_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as refused:
        get_settings.__wrapped__()
    assert str(refused.value).startswith(f"The environment or .env is wrong: {sentence}")
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None and refused.value.__context__ is None


# ─── Databases ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg2"])
def test_the_driver_is_put_in(scheme: str) -> None:
    read = settings(database_url=f"{scheme}://u:p@h:1/d", database_admin_url=f"{scheme}://o:q@h:1/d")
    assert read.service_url.render_as_string(hide_password=False) == "postgresql+asyncpg://u:p@h:1/d"
    assert read.owner_url.render_as_string(hide_password=False) == "postgresql+psycopg2://o:q@h:1/d"


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-ca", "verify-full"])
def test_tls_is_asked_for_under_the_name_that_each_driver_knows(mode: str) -> None:
    url = f"postgresql://u:p@h/d?sslmode={mode}&application_name=x"
    assert dict(with_driver(url, "asyncpg").query) == {"ssl": mode, "application_name": "x"}
    assert dict(with_driver(url, "psycopg2").query) == {"sslmode": mode, "application_name": "x"}


def test_a_password_with_signs_in_it_survives() -> None:
    assert with_driver("postgresql://u:p%40ss%2Fw%25rd@h/d", "asyncpg").password == "p@ss/w%rd"


@pytest.mark.parametrize("url", ["mysql://u:p@h/d", "sqlite:///x"])
def test_another_database_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="postgresql://"):
        with_driver(url, "asyncpg")


def test_without_the_owners_url_the_operators_commands_say_what_is_missing() -> None:
    with pytest.raises(ValueError, match="DATABASE_ADMIN_URL is not set"):
        _ = settings().owner_url


# ─── The process ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("module", ["app.cli", "app.jobs.worker"])
def test_a_process_with_unsafe_settings_does_not_start_and_says_why(tmp_path: Path, module: str) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ENVIRONMENT": "production", "SECRET_KEY": GOOD_SECRET, "BASE_DOMAIN": ""}
    arguments = ["-m", module, *(["tenants", "list"] if module == "app.cli" else [])]
    with process(tmp_path, arguments, environment) as started:
        assert started.wait() != 0
        assert "ALLOWED_HOSTS must name the hosts that are served" in started.output


@pytest.mark.parametrize("seconds", [7, 61, 120, 0.5])
def test_views_are_flushed_at_even_parts_of_a_minute(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"VIEW_FLUSH_SECONDS must divide a minute|valid integer"):
        settings(view_flush_seconds=seconds)


def test_a_way_around_pgbouncer_is_taken_only_where_there_is_one() -> None:
    through = "postgresql+asyncpg://u:p%40ss@bouncer/d?sslmode=require"
    for nothing in ({}, {"database_listen_url": ""}):
        assert settings(database_url=through, **nothing).listen_url == "postgresql://u:p%40ss@bouncer/d?sslmode=require"
    assert settings(database_url=through, database_listen_url="postgres://u:p@db/d").listen_url == "postgresql://u:p@db/d"


def test_a_process_opens_sixty_connections_at_the_most_and_keeps_more_than_half() -> None:
    """Fewer kept, and a busy process opens and closes connections all the time."""
    defaults = Settings.model_fields
    kept, more = defaults["database_pool_size"].default, defaults["database_max_overflow"].default
    assert (kept + more, kept) == (60, 40)
