"""Layers run downwards: `make lint` asks import-linter, and here is asked whether it would notice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def broken(root: Path) -> list[str]:
    """The contracts that a copy of the project breaks."""
    code = "from importlinter.cli import lint_imports_command as ask; ask()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return [line.partition(" BROKEN")[0] for line in done.stdout.splitlines() if " BROKEN" in line]


@pytest.mark.parametrize(
    ("where", "what", "contract"),
    [
        (
            "results/files.py",
            "from modeconn_cli.engine.paths import barriers",
            "Layers of the engine run downwards",
        ),
        (
            "errors.py",
            "def f(): from modeconn_cli.engine import settings",
            "Layers of the engine run downwards",
        ),
        ("loose.py", "", "Layers of the engine run downwards"),
        ("stories/__init__.py", "import modeconn_cli.cli.tables", "The command line stands above the engine"),
        (
            "commands/swap.py",
            "from modeconn_cli.engine.commands.l2 import summary",
            "Commands do not import each other",
        ),
    ],
)
def test_an_import_upwards_is_noticed(tmp_path: Path, where: str, what: str, contract: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(
        ROOT / "modeconn_cli", tmp_path / "modeconn_cli", ignore=shutil.ignore_patterns("__pycache__")
    )
    with (tmp_path / "modeconn_cli/engine" / where).open("a") as stream:
        stream.write(f"\n{what}\n")
    assert broken(tmp_path) == [contract]


def test_the_package_keeps_its_layers() -> None:
    assert broken(ROOT) == []
