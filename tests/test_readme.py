"""The README's tables name what exists, all of it, and nothing else."""

import re
from pathlib import Path

from app.config import Settings
from app.main import create_app

README = (Path(__file__).parents[1] / "README.md").read_text()
METHODS = ("get", "post", "patch", "put", "delete")


def section(title: str) -> str:
    """Return the text below a heading of the second level."""
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_configuration_table_has_every_setting_once() -> None:
    named = [name for row in re.findall(r"^\| (`[A-Z_`, ]+`) \|", section("Configuration"), re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(name.upper() for name in Settings.model_fields)


def test_the_api_table_has_every_operation_once() -> None:
    listed = re.findall(r"^\| `(/\S+)` \| ([A-Z]+) \|", section("API"), re.MULTILINE)
    paths = create_app(Settings(_env_file=None)).openapi()["paths"]
    assert sorted(listed) == sorted((path, method.upper()) for path, operations in paths.items() for method in METHODS if method in operations)


def test_every_link_within_the_repository_leads_somewhere() -> None:
    targets = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert targets
    assert [target for target in targets if not (Path(__file__).parents[1] / target).exists()] == []
