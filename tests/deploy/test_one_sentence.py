"""What keeps `make run`, `make test` and `make bench` from working is said in one sentence that names it, and never by a traceback."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import Settings
from tests.conftest import ROOT
from tests.faults.support import environment_of

NOBODY = 65534
RUN, TEST, BENCH = ["-m", "deploy.local", "run"], ["-m", "pytest", "-n", "0", "tests/test_readme.py"], ["-m", "benchmarks"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like this checkout, without `.local` and `.env`."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("app", "alembic", "alembic.ini", "deploy", "benchmarks", "tests", "pyproject.toml", "requirements-dev.txt"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def said_by(done: "subprocess.CompletedProcess[str]") -> str:
    """Return what a command said that failed, as it should: in a sentence."""
    said = done.stdout + done.stderr
    assert done.returncode not in (0, -6, -11), said
    assert not [word for word in ("Traceback", "INTERNALERROR", 'File "') if word in said], said
    return said


def run(checkout: Path, command: list[str], *before: str, **environment: str) -> str:
    done = subprocess.run(
        [*before, sys.executable, *command], cwd=checkout, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )
    return said_by(done)


def install(checkout: Path, python: str = sys.executable, user: int | None = None) -> str:
    command = [python, "-I", "-S", str(checkout / "deploy" / "local" / "install.py")]
    return said_by(subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, user=user, timeout=60))


# ─── Files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def everybodys_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout that any user may read, and that holds what `install.py` needs."""
    folder = Path("/tmp") / f"{tmp_path_factory.getbasetemp().name}-{os.getpid()}"
    (folder / "deploy" / "local").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "local" / "install.py", folder / "deploy" / "local")
    shutil.copy(ROOT / "requirements-dev.txt", folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@as_root
@pytest.mark.parametrize("closed", ["python", "venv", "stamp"])
def test_an_environment_that_another_user_made_is_named(everybodys_checkout: Path, tmp_path: Path, closed: str) -> None:
    everybodys = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if everybodys is None or subprocess.run([everybodys, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False, user=NOBODY).returncode:
        pytest.skip("there is no Python here that every user may run")
    venv = everybodys_checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    tmp_path.chmod(0o700)
    (tmp_path / "python").touch()
    (venv / "bin" / "python").symlink_to(tmp_path / "python" if closed == "python" else everybodys)
    (venv / ".installed").touch(mode=0o600)
    if closed == "venv":
        venv.chmod(0o700)
    said = install(everybodys_checkout, everybodys, NOBODY)
    assert said.startswith(str(venv / ".installed" if closed == "stamp" else venv / "bin" / "python"))
    assert "run this as the user whom it belongs to" in said
    assert said.count("\n") == 1


def test_a_local_that_is_a_file_is_named_before_anything_is_installed(checkout: Path) -> None:
    (checkout / ".local").touch()
    assert f"{checkout}/.local/log" in install(checkout)


@pytest.mark.parametrize("command", [RUN, TEST, BENCH], ids=["run", "test", "bench"])
def test_a_local_that_is_a_file_is_named(checkout: Path, command: list[str]) -> None:
    (checkout / ".local").touch()
    said = run(checkout, command)
    assert f"{checkout}/.local" in said
    assert "there is a file where a folder belongs" in said


@pytest.mark.parametrize("name", ["postgres", "valkey", "run", "log"])
def test_a_file_where_the_servers_keep_their_folders_is_named(checkout: Path, name: str) -> None:
    (checkout / ".local").mkdir()
    (checkout / ".local" / name).touch()
    said = run(checkout, RUN)
    assert f"{checkout}/.local/{name}" in said
    assert "there is a file where a folder belongs" in said


@as_root
@pytest.mark.parametrize("command", [RUN, TEST, BENCH], ids=["run", "test", "bench"])
def test_a_file_system_that_cannot_be_written_is_named(checkout: Path, command: list[str]) -> None:
    (checkout / ".local").mkdir()
    # In a mount namespace of its own, which goes with the command.
    apart = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro none .local && exec "$@"', "sh")
    if subprocess.run([*apart, "true"], cwd=checkout, capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    said = run(checkout, command, *apart)
    assert f"{checkout}/.local" in said
    assert "Read-only file system" in said


# ─── Settings ────────────────────────────────────────────────────────────────────────────────────────────────────────

COMMANDS = {"run": RUN, "api": ["-m", "app.server"], "worker": ["-m", "app.jobs.worker"], "cli": ["-m", "app.cli", "tenants", "list"]}
COMMANDS["migrations"] = ["-m", "alembic", "upgrade", "head"]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("TIERS", "{", "TIERS is no JSON."),
        ("TRUSTED_PROXIES", "127.0.0.1, foo", "TRUSTED_PROXIES names addresses and networks, such as 10.0.0.0/8, and 'foo' is neither."),
    ],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_setting_that_cannot_be_is_named_by_every_command(checkout: Path, command: str, name: str, value: str, sentence: str) -> None:
    said = run(checkout, COMMANDS[command], **{name: value})
    assert f"The environment or .env is wrong: {sentence}" in said
    assert said.count("\n") <= 2


@pytest.mark.parametrize("content", [b"TIERS={\n", b"BASE_DOMAIN=\xff\n"])
def test_a_file_of_settings_that_cannot_be_read_is_one_sentence(checkout: Path, content: bytes) -> None:
    (checkout / ".env").write_bytes(content)
    assert "The environment or .env is wrong: " in run(checkout, COMMANDS["worker"])


# ─── Ports of /metrics ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("command", "variable"), [("api", "METRICS_PORT"), ("worker", "WORKER_METRICS_PORT")])
def test_a_port_of_the_metrics_that_is_taken_is_named_with_its_variable(settings: Settings, tmp_path: Path, command: str, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = run(tmp_path, COMMANDS[command], **{**environment_of(settings), variable: str(port)})
    assert said.startswith(f"{variable} is {port}, and 127.0.0.1:{port} (METRICS_HOST, {variable}) cannot be listened on: ")
    assert said.count("\n") == 1
