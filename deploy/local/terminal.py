"""What the developer sees: a line for each step with its duration, and the lines of the API and the worker."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator

from rich.console import Console

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STYLES = {"api": "\x1b[36m", "worker": "\x1b[35m"}


class QuietConsole(Console):
    """A console that falls silent when nobody reads it any more; what it reports on goes on, and stops in order."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Terminal:
    """Writes to standard output: with a spinner and colours on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace", line_buffering=True)
        self._console = QuietConsole(highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show that the step goes on, and how long it took when it is done."""
        started = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(title):
                yield
        else:
            self._print(f"  {title} …")
            yield
        self._print(f"[green]✓[/] {title} [dim]({time.monotonic() - started:.1f} s)[/]")

    def say(self, text: str = "", *, markup: bool = True) -> None:
        self._print(text, markup=markup)

    def fail(self, sentence: str) -> None:
        """Say what went wrong, on standard error."""
        with contextlib.suppress(OSError):
            Console(stderr=True, highlight=False, soft_wrap=True).print("[bold red]✗[/] ", end="")
            print(sentence, file=sys.stderr, flush=True)

    def child_line(self, name: str, line: str) -> None:
        """Show a line of a child, as it coloured it where this is a terminal."""
        if self._console.is_terminal:
            self._out(f"{_STYLES.get(name, '')}{name:>6} │\x1b[0m {line}")
        else:
            self._out(f"{name:>6} | {_ANSI.sub('', line)}")

    @property
    def is_terminal(self) -> bool:
        return self._console.is_terminal

    def _print(self, text: str, *, markup: bool = True) -> None:
        with self._unless_gone():
            self._console.print(text, markup=markup)

    def _out(self, text: str) -> None:
        with self._unless_gone():
            self._console.out(text, highlight=False)

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        """A closed terminal is no reason to leave servers running."""
        try:
            yield
        except OSError:
            self._console.quiet = True
