"""An incremental run that is killed and stopped goes on to the same files."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = (
    "train", "--model", "mlp", "--model-arg", "width=16,depth=1", "--dataset", "digits", "--lr", "0.1",
    "--classes-per-task", "4", "--epochs-per-task", "3", "--schedule", "incremental", "--val-per-class", "14",
    "--save-freq", "2", "--track-samples", "--record-csl", "--threads", "1", "-q",
)  # fmt: skip


def results(folder: Path) -> dict[str, bytes]:
    """Every file but for what a clock says."""
    out = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".mcx" not in path.parts:
            out[str(path.relative_to(folder))] = path.read_bytes()
    lines = [json.loads(line) for line in out["metrics.jsonl"].decode().splitlines()]
    out["metrics.jsonl"] = json.dumps(
        [{k: v for k, v in row.items() if k != "seconds"} for row in lines]
    ).encode()
    return out


@pytest.mark.parametrize("form", ["csv", "npz"])
def test_kills_and_signals_in_every_task_change_no_byte(
    fresh: Callable, mcx: Callable, tmp_path: Path, form: str
) -> None:
    """The last one in the middle of the third task."""
    tracked = (*WORDS, "--track-format", form, "--output-dir")
    assert mcx(*tracked, tmp_path / "whole").code == 0
    words = (*tracked, tmp_path / "again")
    ends, places = [], []
    for place in ("train.after_step:10=kill", "train.after_step:33=usr2", "train.after_step:38=kill"):
        ends.append(fresh(*words, environment={"MCX_TESTING": "1", "MCX_FAILPOINT": place}).code)
        if form == "csv":
            places.append(last_row(tmp_path / "again/seed0/sample_tracking_data_final.csv"))
    assert ends == [-signal.SIGKILL, 75, -signal.SIGKILL]
    assert [task for _, task in places] == ([0, 1, 2] if form == "csv" else []), "a task further every time"
    done = mcx(*words)
    assert done.code == 0, done.err
    whole, again = results(tmp_path / "whole/seed0"), results(tmp_path / "again/seed0")
    assert list(again) == list(whole)
    assert [name for name in whole if again[name] != whole[name]] == []


def last_row(path: Path) -> tuple[int, int]:
    """Epoch and task that a run had come to."""
    cells = path.read_text().splitlines()[-1].split(",")
    return int(cells[4]), int(cells[6])
