"""Which servers are used: those that the environment or `.env` names, or our own."""

from pathlib import Path

import pytest

from deploy.local.errors import BadConfiguration
from deploy.local.servers import LocalServers
from deploy.local.targets import Targets

NAMES = ("DATABASE_URL", "DATABASE_ADMIN_URL", "REDIS_URL")
NOBODY = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the caller's shell, and no `.env`."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_where_nothing_is_named_everything_is_our_own() -> None:
    targets = Targets.from_settings()
    assert (targets.database_url, targets.database_admin_url, targets.redis_url) == (None, None, None)


def test_links_in_mails_lead_to_this_very_run_unless_an_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBLIC_URL", raising=False)
    assert Targets.from_settings().public_url is None
    # As `.env.example` has it.
    monkeypatch.setenv("PUBLIC_URL", "http://127.0.0.1:8000")
    assert Targets.from_settings().public_url is None
    monkeypatch.setenv("PUBLIC_URL", "https://app.example.com")
    assert Targets.from_settings().public_url == "https://app.example.com"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_without_a_value_names_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")
    test_where_nothing_is_named_everything_is_our_own()


@pytest.mark.parametrize("in_file", [True, False])
def test_one_server_may_be_named_and_the_other_be_our_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_file: bool) -> None:
    with LocalServers(tmp_path / "servers", durable=False) as servers:
        if in_file:
            (tmp_path / ".env").write_text(f"REDIS_URL={servers.redis_url}\n")
        else:
            monkeypatch.setenv("REDIS_URL", servers.redis_url)
        targets = Targets.from_settings()
        assert targets.redis_url == servers.redis_url
        assert targets.database_url is None


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"DATABASE_URL": f"postgresql://service:x@{NOBODY}/saas"}, "DATABASE_ADMIN_URL is not: set it to the role that owns"),
        ({"DATABASE_ADMIN_URL": f"postgresql://owner:x@{NOBODY}/saas"}, "DATABASE_URL is not: set it to the role that the service"),
        (
            {"DATABASE_URL": f"postgresql://service:x@{NOBODY}/saas", "DATABASE_ADMIN_URL": f"postgresql://owner:x@{NOBODY}/saas"},
            f"Nothing answers on {NOBODY}, which DATABASE_ADMIN_URL names",
        ),
        (
            {"DATABASE_URL": "postgresql://service:x@db-1/saas", "DATABASE_ADMIN_URL": "postgresql://owner:x@db-2/saas"},
            "DATABASE_URL names the database saas on db-1, and DATABASE_ADMIN_URL saas on db-2: name the same one.",
        ),
        (
            {"DATABASE_URL": f"postgresql://service:x@{NOBODY}/saas", "DATABASE_ADMIN_URL": f"postgresql://owner:x@{NOBODY}/postgres"},
            "DATABASE_URL names the database saas on 127.0.0.1, and DATABASE_ADMIN_URL postgres on 127.0.0.1: name the same one.",
        ),
        # Behind PgBouncer, on another port of the same machine: only reaching it fails.
        (
            {"DATABASE_URL": "postgresql://service:x@localhost:6432/saas", "DATABASE_ADMIN_URL": f"postgresql://owner:x@{NOBODY}/saas"},
            f"Nothing answers on {NOBODY}, which DATABASE_ADMIN_URL names",
        ),
        ({"REDIS_URL": f"redis://{NOBODY}/0"}, f"Nothing answers on {NOBODY}, which REDIS_URL names"),
        ({"REDIS_URL": "127.0.0.1"}, "REDIS_URL is not a URL"),
        ({"DATABASE_POOL_SIZE": "many"}, "DATABASE_POOL_SIZE: "),
    ],
)
def test_a_wrong_setting_is_one_sentence_without_a_password(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sentence: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace(":x@", ":hidden@"))
    with pytest.raises(BadConfiguration) as caught:
        Targets.from_settings()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)
