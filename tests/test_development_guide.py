"""docs/development.md, followed word for word in a copy of the repository: its feature works, and passes the checks that everything passes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

GUIDE = (Path(__file__).parents[1] / "docs" / "development.md").read_text()
ROOT = Path(__file__).parents[1]
PARTS = ("app", "alembic", "alembic.ini", "deploy", "pyproject.toml", "tests")


def block_after(words: str) -> str:
    """Return the block of code that follows these words in the guide."""
    found = re.search(r"```\w*\n(.*?)```", GUIDE.partition(words)[2], re.DOTALL)
    assert found is not None, f"the guide has no code after {words!r}"
    return found[1]


def insert(path: Path, before: str, code: str) -> None:
    """Put code before the first line that holds certain words, and insist that there is one."""
    head, found, tail = path.read_text().partition(before)
    assert found, f"{path.name} has no {before!r}"
    path.write_text(head + code + found + tail)


def run(root: Path, *arguments: str) -> str:
    """Run `python -m …` in the copy. Fails with the output unless it succeeds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SAAS_TEST"))}
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def follow(root: Path) -> None:
    """Do what the guide says, step by step."""
    for path in ("app/models/label.py", "app/schemas/label.py", "app/api/endpoints/labels.py", "tests/api/test_labels.py"):
        (root / path).write_text(block_after(f"`{path}`:"))
    models = root / "app" / "models" / "__init__.py"
    insert(models, "from app.models.mail", block_after("In `app/models/__init__.py`"))
    insert(models, '    "Mail",\n', '    "Label",\n')
    run(root, "alembic", "revision", "-m", "add labels")
    (migration,) = (root / "alembic" / "versions").glob("*add_labels.py")
    text = migration.read_text()
    down = text.index("def downgrade")
    upgrade, downgrade = text[:down], text[down:]
    migration.write_text(
        upgrade.replace("    pass\n", block_after("Between them and")) + downgrade.replace("    pass\n", block_after("and at the end of `downgrade`"))
    )
    insert(root / "tests" / "isolation" / "catalog.py", "# What it may do with single columns", block_after("which holds the role to it"))
    refusals = root / "app" / "core" / "exceptions.py"
    insert(refusals, "class EmailTaken", block_after("### 4. The refusal") + "\n\n")
    router = root / "app" / "api" / "router.py"
    router.write_text(router.read_text().replace("invitations, ", "invitations, labels, ", 1).replace("= (projects,", "= (labels, projects,"))


def test_the_guide_followed_word_for_word_runs(tmp_path: Path) -> None:
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / part)
    follow(tmp_path)
    run(tmp_path, "ruff", "check", "app", "tests/api/test_labels.py")
    run(tmp_path, "ruff", "format", "--check", "app", "alembic/versions")
    checks = ("the_models_and_the_migrations_say_the_same", "goes_down_and_up", "the_migrated_database_is_as_it_must_be")
    labels = run(tmp_path, "pytest", "-n", "0", "tests/api/test_labels.py")
    assert "3 passed" in labels
    run(tmp_path, "pytest", "-n", "0", "tests/test_architecture.py", "tests/isolation/test_catalog.py", "-k", " or ".join(checks))
