"""`python -m deploy.local run` and `clean`: what `make run` and `make clean` call."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.local.cleaning import clean
from deploy.local.errors import LocalError, sentence_of
from deploy.local.supervisor import run

# Not resolved: a checkout may be reached by a link, and its data belongs where it was called from.
ROOT = Path(__file__).absolute().parents[2]

commands = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Local servers, and the service on them.")


@commands.command("run")
def run_everything(port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API on 127.0.0.1")] = 8000) -> None:
    """Start servers, migrate, seed the demo tenant, and serve until Ctrl-C."""
    sys.exit(run(ROOT, port))


@commands.command("clean")
def forget_everything() -> None:
    """Stop what runs in this checkout and forget `.local/`."""
    clean(ROOT)


def main() -> None:
    """Run a command; what is wrong with this machine is said in one sentence."""
    try:
        commands()
    except LocalError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(sentence_of(error, ROOT))


if __name__ == "__main__":
    main()
