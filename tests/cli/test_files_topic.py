"""`mcx help files` against what commands write."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from pathlib import Path

from modeconn_cli.cli import pages

FEW = ("--max-samples", "20")


def documented(command: str) -> list[str]:
    """The names that the page gives a command, as globs."""
    line = re.search(rf"^- `mcx {command}`: (.*?)(?=^- |\Z)", pages.topic("files"), re.MULTILINE | re.DOTALL)
    assert line is not None, command
    said = [re.sub(r"<\w+>", "*", word) for word in re.findall(r"`([^`]+)`", line[1])]
    return said + (["*.png"] if "figure" in line[1] else [])


# The later ones read what the earlier ones have written.
COMMANDS = {
    "train": ("--model", "mlp", "--dataset", "digits", *FEW, "--epochs", "1", "--label-noise", "0.1"),
    "swap": ("SEED0", "--output", "OUT/swapped.pt"),
    "l2": ("SEED0", "SEED1"),
    "lmc interpolate": ("SEED0", "SEED1", "--num-alphas", "3", "--by-layer", "--layers", "conv1", *FEW),
    "curve eval": (
        *("--endpoint0", "SEED0", "--endpoint1", "SEED1", "--num-points", "3", *FEW),
        *("--save-predictions", "--hessian-trace", "1"),
    ),
    "curve plane": ("SEED0", "--random-directions", "0", "--grid-points", "2", *FEW),
    "csl score": ("--checkpoint", "SEED0", *FEW),
    "csl aggregate": ("--input-dir", "SCORES"),
    "curvature": ("--checkpoint", "SEED0", "--niter", "1", *FEW),
    "dormant": ("--checkpoint", "SEED0", *FEW),
    "memo": (
        *("--model", "mlp", "--dataset", "digits", *FEW, "--epochs", "1", "--label-noise", "0.1"),
        *("--models", "8"),
    ),
    "correlate": ("--csl", "SUMS"),
}


def test_every_file_that_a_command_writes_is_named(mcx: Callable, networks: Path, tmp_path: Path) -> None:
    places = {
        "SEED0": networks / "seed0/checkpoint-4.pt",
        "SEED1": networks / "seed1/checkpoint-4.pt",
        "OUT/swapped.pt": tmp_path / "swap/swapped.pt",
        "SCORES": tmp_path / "csl-score",
        "SUMS": tmp_path / "csl-aggregate",
    }
    for command, words in COMMANDS.items():
        out = tmp_path / command.replace(" ", "-")
        given = [str(places.get(word, word)) for word in words]
        done = mcx(*command.split(), *given, "-q", *(() if command == "swap" else ("--output-dir", out)))
        assert done.code == 0, done.err
        known = documented(command)
        written = {path.name for path in out.rglob("*") if path.is_file() and ".mcx" not in path.parts}
        written -= {"swapped.pt"} | (
            {name for name in written if name.endswith(".json")} if command == "l2" else set()
        )
        names = [name.rpartition("/")[2] for name in known]
        unnamed = [name for name in written if not any(fnmatch.fnmatch(name, each) for each in names)]
        assert (command, unnamed) == (command, [])
        if command in ("lmc interpolate", "curve eval", "curve plane", "csl score"):
            files = [name for name in names if not name.startswith(("-", "label_noise"))]
            lacking = [name for name in files if not fnmatch.filter(written, name)]
            assert (command, lacking) == (command, [])
