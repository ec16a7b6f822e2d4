"""Whole processes: what a person waits for between typing and reading."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch

from bench.pairs import Pair

MCX = str(Path(sysconfig.get_path("scripts")) / "mcx")
GOLDEN = Path(__file__).parents[1] / "tests/data/layer_distances_along_curve.npz"


def process(*words: str, **environment: str) -> Callable[[], None]:
    """Run a command line, which must end well; settings in the environment do not reach it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MCX_", "_MCX_"))}

    def run() -> None:
        subprocess.run(words, env={**inherited, **environment}, stdout=subprocess.DEVNULL, check=True)

    return run


def attempt(code: int, *words: str) -> Callable[[], None]:
    """Run a command line that must end with an exit code."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MCX_", "_MCX_"))}

    def run() -> None:
        done = subprocess.run(words, env=inherited, capture_output=True, check=False)
        if done.returncode != code:
            raise RuntimeError(done.stderr.decode())

    return run


import_typer = process(sys.executable, "-c", "import typer")
import_torch = process(sys.executable, "-c", "import torch")


def show_help(_folder: Path) -> Pair:
    return Pair(process(MCX, "--help"), import_typer)


def command_help(_folder: Path) -> Pair:
    return Pair(process(MCX, "curve", "train", "--help"), import_typer)


def tab(_folder: Path) -> Pair:
    asked = process(MCX, _MCX_COMPLETE="complete_bash", COMP_WORDS="mcx curve ", COMP_CWORD="2")
    return Pair(asked, import_typer)


def missing_file(folder: Path) -> Pair:
    there = folder / "a.pt"
    there.touch()
    return Pair(attempt(3, MCX, "l2", str(there), str(folder / "typo.pt")), import_torch)


def small_distance(folder: Path) -> Pair:
    paths = [folder / name for name in ("a.pt", "b.pt")]
    for path in paths:
        torch.save({"fc.weight": torch.ones(10, 10)}, path)
    return Pair(process(MCX, "l2", *map(str, paths), "--quiet"), import_torch)


def animate(folder: Path) -> Pair:
    output = str(folder / "layers.gif")
    return Pair(process(MCX, "animate", "--data", str(GOLDEN), "--output", output, "--overwrite", "--quiet"))
