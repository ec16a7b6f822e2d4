"""Kills while the answers along a path and what is made of them are kept."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from faults.commands import OWN, A, B

KILLED = -signal.SIGKILL
WORDS = ("curve", "eval", A, B, *OWN, "--num-points", "3", "--save-predictions", "--ensemble", "0,0.3", "-q")
WHOLE = ("curve.npz", "predictions.npz", "prediction_changes.csv", "prediction_changes.png", "curve.png")


def at(place: str, turn: int) -> dict[str, str]:
    return {"MCX_TESTING": "1", "MCX_FAILPOINT": f"{place}:{turn}=kill"}


def summary(folder: Path) -> dict[str, Any]:
    """What the summary says, without what is of the run."""
    found = json.loads((folder / "curve_summary.json").read_text())
    return {name: found[name] for name in found if name not in ("provenance", "figure", "arrays")}


def same(one: str, other: str) -> bool:
    files = all(Path(one, name).read_bytes() == Path(other, name).read_bytes() for name in WHOLE)
    return files and summary(Path(one)) == summary(Path(other))


def test_a_killed_evaluation_measures_no_position_twice(forked, here: Path) -> None:
    assert forked([*WORDS, "--output-dir", "whole"]).code == 0
    words = [*WORDS, "--output-dir", "out"]
    assert forked(words, at("evaluate.after_position.rank0", 3)).code == KILLED
    kept = {path: path.stat().st_mtime_ns for path in Path("out/.mcx/curve-eval/answers").iterdir()}
    assert len(kept) == 3
    assert forked(words).code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert same("out", "whole")


@pytest.mark.slow
def test_a_kill_at_any_file_changes_nothing(forked, here: Path) -> None:
    assert forked([*WORDS, "--output-dir", "whole"]).code == 0
    turn, codes = 1, []
    while not codes or codes[-1] == KILLED:
        words = [*WORDS, "--output-dir", f"run{turn}"]
        codes.append(forked(words, at("files.before_rename", turn)).code)
        done = forked(words)
        assert done.code == 0, f"after a kill before file {turn}: {done.err}"
        assert same(f"run{turn}", "whole")
        turn += 1
    assert codes[-1] == 0
    assert turn > len(WHOLE) + 8, "its files, and those of four positions and the average"


@pytest.mark.slow
def test_a_killed_evaluation_keeps_the_hessian_of_finished_positions(fresh, here: Path) -> None:
    words = [*WORDS, "--hessian-top", "1", "--hessian-trace", "2", "--hessian-samples", "20", "--output-dir"]
    assert fresh(*words, "whole").code == 0
    assert fresh(*words, "out", environment=at("evaluate.after_position.rank0", 3)).code == KILLED
    log = Path("out/.mcx/curve-eval/positions-0.jsonl")
    kept = log.read_bytes()
    assert kept.count(b"products") == 2
    assert fresh(*words, "out").code == 0
    assert log.read_bytes().startswith(kept)
    assert same("out", "whole")
