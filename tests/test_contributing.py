"""The how-tos of CONTRIBUTING.md apply to the project as it is, and what they add works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIFFS = re.findall(
    r"^### … (.+?)\n.*?```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL | re.MULTILINE
)
# The tests that a how-to has to pass: those it adds or changes, and those of the contract.
TESTS = {
    "a network": ("tests/engine/test_models.py", "tests/engine/test_symmetry.py"),
    "a distance": ("tests/engine/test_distances.py",),
    "a score of samples": ("tests/engine/test_scores.py",),
    "a command": (
        "tests/cli/test_info.py",
        "tests/cli/test_completion.py",
        "tests/cli/test_help.py",
        "tests/test_layers.py",
    ),
    "a foreign checkpoint": ("tests/engine/test_checkpoints.py",),
}


def test_there_is_a_how_to_for_each_of_the_five() -> None:
    assert [title for title, _ in DIFFS] == list(TESTS)
    assert all(text.count("\n+") <= 110 for _, text in DIFFS)


@pytest.mark.slow
@pytest.mark.parametrize(("title", "text"), DIFFS, ids=[title for title, _ in DIFFS])
def test_a_how_to_applies_and_works(tmp_path: Path, title: str, text: str) -> None:
    for name in ("modeconn_cli", "tests", "completions", "configs", "docs", "bench"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "change.diff").write_text(text)
    subprocess.run(["git", "apply", "change.diff"], cwd=tmp_path, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for tool in (("ruff", "check", "."), ("ruff", "format", "--check", "modeconn_cli", "tests")):
        done = subprocess.run(
            [sys.executable, "-m", *tool], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow and not gpu",
        *TESTS[title],
    ]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
