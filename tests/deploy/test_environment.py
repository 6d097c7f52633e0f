"""`make test` and `make bench` do the same whatever the caller's shell has exported."""

import os
import subprocess
import sys

import pytest

from app.config import Settings
from deploy.local.environment import without_settings
from tests.conftest import ROOT
from tests.faults.support import environment_of

EXPORTED = {
    "ENVIRONMENT": "production",
    "RATE_LIMIT_FALLBACK": "closed",
    "CAPTCHA_REQUIRED": "true",
    "TOKEN_ISSUER": "somebody-else",
    "ALLOWED_HOSTS": "api.example.com",
    "DATABASE_URL": "postgresql://saas_service:x@127.0.0.1:1/saas",
    "REDIS_URL": "redis://127.0.0.1:1",
    "METRICS_PORT": "1",
    "TIERS": "{",
    # Pydantic does not mind the case.
    "email_verification_required": "true",
}


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ, **EXPORTED}, capture_output=True, text=True, check=False)


def test_tests_pass_with_settings_exported() -> None:
    chosen = ["tests/api/test_me.py", "tests/faults/test_exit.py", "-k", "test_me or exits_0"]
    done = run("-m", "pytest", "-n", "0", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout or "[100%]" in done.stdout


@pytest.mark.parametrize("package", ["tests", "benchmarks"])
def test_nothing_of_it_reaches_the_processes_that_are_started(package: str) -> None:
    listing = "import subprocess; print(subprocess.check_output(['env'], text=True))"
    # As pytest does, which is there before the tests are.
    done = run("-c", f"import pytest, {package}; {listing}")
    shown = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert "PATH" in shown
    assert not shown & EXPORTED.keys()


def test_a_child_s_environment_has_the_settings_that_it_is_given_and_no_others(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    for name in EXPORTED.keys() - {"TIERS"}:
        monkeypatch.setenv(name, EXPORTED[name])
    given = environment_of(settings, captcha_required=False)
    assert {name: given.get(name) for name in ("CAPTCHA_REQUIRED", "RATE_LIMIT_FALLBACK", "TOKEN_ISSUER")} == {
        "CAPTCHA_REQUIRED": "False",
        "RATE_LIMIT_FALLBACK": None,
        "TOKEN_ISSUER": None,
    }
    assert without_settings({**EXPORTED, "PATH": "/bin"}) == {"PATH": "/bin"}
