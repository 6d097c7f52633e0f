"""Renders mails out of `app/templates/mail/`: for each template a text, whose first line is the subject, and HTML."""

from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.utils.text import one_line

FOLDER = Path(__file__).parents[1] / "templates" / "mail"

_LOADER = FileSystemLoader(FOLDER)
_HTML = Environment(loader=_LOADER, undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
# No value may break out of its line: the first one becomes a header.
_TEXT = Environment(loader=_LOADER, undefined=StrictUndefined, autoescape=False, finalize=one_line, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 (plain text)


class Rendered(NamedTuple):
    """What people read of a mail."""

    subject: str
    text: str
    html: str


def render(template: str, values: dict[str, Any]) -> Rendered:
    """Return the mail. Raises `jinja2.UndefinedError` where the template shows a value that is not given."""
    subject, _, text = _TEXT.get_template(f"{template}.txt").render(values).partition("\n")
    return Rendered(subject, text.strip() + "\n", _HTML.get_template(f"{template}.html").render(values, subject=subject))
