"""What a command waits for before it works: counted by the modules that it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# After the command: its exit code, and those of the heavy modules that it has imported.
CODE = """
import json, sys
from modeconn_cli.cli.app import main
code = main(sys.argv[2:])
print(json.dumps([code, sorted(set(json.loads(sys.argv[1])) & set(sys.modules))]), file=sys.stderr)
"""
COMPILER = (
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "scipy.stats",
    "pandas",
    "torchvision",
    "matplotlib.pyplot",
)


def imported(folder: Path, modules: tuple[str, ...], *words: str) -> tuple[int, list[str], list[str]]:
    """The exit code, which of the modules were imported, and what was said before."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MCX_")}
    paths = os.pathsep.join([str(Path(__file__).parents[2]), inherited.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(modules), *words],
        cwd=folder, capture_output=True, text=True, check=True, env={**inherited, "PYTHONPATH": paths},
    )  # fmt: skip
    *said, last = done.stderr.splitlines()
    code, found = json.loads(last)
    return code, found, said


def test_a_distance_imports_neither_the_compiler_nor_statistics(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        with (tmp_path / name).open("wb") as stream:
            torch.save({"w": torch.ones(2)}, stream)
    assert imported(tmp_path, ("torch", *COMPILER), "l2", "a.pt", "b.pt")[:2] == (0, ["torch"])


TYPOS = {
    "l2 x.pt a.pt": (3, "l2: error: 'x.pt' does not exist"),
    "l2 a.pt x.pt::ema": (3, "l2: error: 'x.pt' does not exist"),
    "l2 RUN --step 5": (3, "l2: error: 'RUN' does not exist"),
    "info x.pt": (3, "info: error: 'x.pt' does not exist"),
    "swap x.pt --output y.pt": (3, "swap: error: 'x.pt' does not exist"),
    "csl score RUN --output-dir o": (3, "csl score: error: 'RUN' does not exist"),
    "curve eval a.pt x.pt --output-dir o": (3, "curve eval: error: 'x.pt' does not exist"),
    "curve train a.pt x.pt --output-dir o": (3, "curve train: error: 'x.pt' does not exist"),
    "curve compare RUN": (3, "curve compare: error: 'RUN' does not exist"),
    "lmc report RUN": (3, "lmc report: error: 'RUN' does not exist"),
    "csl aggregate RUN --output-dir o": (3, "csl aggregate: error: 'RUN' does not exist"),
    "correlate --csl RUN --output-dir o": (3, "correlate: error: 'RUN' does not exist"),
    "train --model mpl --dataset digits --output-dir o": (2, "train: error: unknown model 'mpl'"),
    "train --model mlp --dataset digit --output-dir o": (2, "train: error: unknown data set 'digit'"),
}


def test_what_is_not_there_is_said_before_torch_is_imported(tmp_path: Path, mcx, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pt").touch()
    words = "curvature --checkpoint x.pt --output-dir o"
    found = imported(tmp_path, ("torch", "numpy"), *words.split())
    assert found == (3, [], ["mcx curvature: error: 'x.pt' does not exist"])
    for line, (code, said) in TYPOS.items():
        done = mcx(*line.split())
        assert (done.code, done.err.splitlines()[0]) == (code, f"mcx {said}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("line", [line for line, (code, _) in TYPOS.items() if code == 3])
def test_the_readers_say_it_in_the_same_words(
    tmp_path: Path, mcx, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    from modeconn_cli.cli import options

    monkeypatch.setattr(options, "_check_named", lambda _: None)
    monkeypatch.chdir(tmp_path)
    with Path("a.pt").open("wb") as stream:
        torch.save({"w": torch.ones(2)}, stream)
    done = mcx(*line.split())
    errors = [said for said in done.err.splitlines() if "error:" in said]
    assert (done.code, errors) == (3, [f"mcx {TYPOS[line][1]}"])
