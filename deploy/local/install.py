"""Makes `.venv` and installs the pinned requirements into it. Behind every target of the Makefile; `setup.sh` finds a Python to run it.

    python3 deploy/local/install.py [--exact]

It runs before anything is installed, so it uses the standard library alone. A stamp in `.venv` says what was installed whole: with an
unchanged lock file the second call returns at once, and an interrupted one is begun again from nothing. With `--exact` a `.venv` of
another version of Python is made anew.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).absolute().parents[2]
_PROGRESS_SECONDS = 10.0
# The first that pip's output holds counts. An index that cannot be reached has "no matching distribution" too.
_REASONS = {
    r"Failed to establish a new connection|[Nn]ame resolution|ConnectTimeout|ReadTimeout|ProxyError": "The package index cannot be reached.",
    r"No space left on device": "The disk that holds {venv} is full: free some space, then try again.",
    r"No matching distribution found for (?P<package>[^\s;]+)": (
        "There is no ready-made {package} for this platform ({platform}, Python {python}): name another Python (PYTHON=…), or use Docker."
    ),
    r"DO NOT MATCH THE HASHES": "A package that was downloaded is not the one that was pinned: try again, and if it stays so, check your package index.",
    r"Permission denied: '(?P<path>[^']+)'": "{path} belongs to another user, and may not be written.",
}


class InstallFailed(Exception):
    """The requirements could not be installed; the text says why in one sentence."""


class Installation:
    """The virtual environment of a checkout."""

    def __init__(self, root: Path, *, exact: bool) -> None:
        self.exact = exact
        self.venv = root / ".venv"
        self.python = self.venv / "bin" / "python"
        self.requirements = root / "requirements-dev.txt"
        self.log = root / ".local" / "log" / "install.log"
        self._stamp = self.venv / ".installed"

    def is_complete(self) -> bool:
        """Return whether exactly the pinned requirements were installed."""
        return self._is_usable() and self._stamped() == self._digest()

    def install(self) -> None:
        """Make it complete. Raises `InstallFailed`."""
        if not self._is_usable():
            self._make_venv()
        self._stamp.unlink(missing_ok=True)
        self._install_requirements()
        self._stamp.write_text(self._digest())

    def _is_usable(self) -> bool:
        """Return whether an installation into it once succeeded, with a Python that still exists and is the one that was asked for."""
        wanted = self.venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        return self.python.exists() and self._stamped() is not None and (wanted.exists() or not self.exact)

    def _digest(self) -> str:
        return hashlib.sha256(self.requirements.read_bytes()).hexdigest()

    def _stamped(self) -> str | None:
        try:
            return self._stamp.read_text()
        except FileNotFoundError:
            return None

    def _make_venv(self) -> None:
        if importlib.util.find_spec("ensurepip") is None:
            raise InstallFailed(f"{sys.executable} cannot make virtual environments: install its venv module (Debian and Ubuntu: apt install python3-venv).")
        say(f"Making .venv with Python {platform.python_version()} …")
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(self.venv)], capture_output=True, text=True, check=False)  # noqa: S603 (ours)
        if made.returncode:
            raise InstallFailed(self._reason(made.stdout + made.stderr))

    def _install_requirements(self) -> None:
        total = len(re.findall(r"^[\w.\[\]-]+==", self.requirements.read_text(), re.MULTILINE))
        say(f"Installing {total} packages (the first time about a minute) …")
        started = time.monotonic()
        # Only ready-made packages: building one needs a compiler, and its failure fills pages.
        options = ["--require-hashes", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        command = [str(self.python), "-m", "pip", "install", *options, "-r", str(self.requirements)]
        with self.log.open("w") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:  # noqa: S603 (ours)
            try:
                self._show_progress(pip, log, total)
            except BaseException:
                pip.terminate()
                raise
        if pip.returncode:
            raise InstallFailed(self._reason(self.log.read_text()))
        say(f"Installed in {time.monotonic() - started:.0f} s.")

    def _show_progress(self, pip: "subprocess.Popen[str]", log: TextIO, total: int) -> None:
        assert pip.stdout is not None  # noqa: S101 (it was started with a pipe)
        found, shown = 0, time.monotonic()
        for line in pip.stdout:
            log.write(line)
            found += line.startswith(("Collecting", "Requirement already satisfied"))
            if time.monotonic() - shown > _PROGRESS_SECONDS or line.startswith("Installing collected"):
                say("  unpacking …" if line.startswith("Installing collected") else f"  fetched {found} of {total} …")
                shown = time.monotonic()

    def _reason(self, output: str) -> str:
        facts = {"venv": self.venv, "platform": f"{sys.platform}-{platform.machine()}", "python": platform.python_version()}
        for pattern, sentence in _REASONS.items():
            found = re.search(pattern, output)
            if found:
                return sentence.format(**facts, **found.groupdict())
        errors = [line for line in output.splitlines() if line.strip()]
        return f"pip failed: {errors[-1] if errors else 'it said nothing'} (more in {self.log})."


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other call installs into the same checkout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another installation in this checkout …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    """Install what is missing; return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that pip ends too
    installation = Installation(ROOT, exact="--exact" in sys.argv)
    try:
        if installation.is_complete():
            return 0
        installation.log.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(installation.log.with_name("install.lock")):
            if not installation.is_complete():
                installation.install()
    except InstallFailed as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: the next call begins again.", file=sys.stderr)
        return 130
    except PermissionError as error:
        print(f"{error.filename or installation.venv} may not be used ({error.strerror}): run this as the user whom it belongs to.", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or installation.venv}: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
