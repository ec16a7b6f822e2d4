"""An incremental run that is killed and stopped goes on to the same files."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.results import failpoints
from modeconn_cli.engine.training import evaluation

pytestmark = pytest.mark.slow

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


@pytest.fixture
def stopped(mcx: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of three tasks that a signal has stopped within the last epoch of the second, beside a whole one."""
    assert mcx(*WORDS, "--output-dir", tmp_path / "whole").code == 0
    monkeypatch.setattr(failpoints, "_counts", {})
    monkeypatch.setenv("MCX_TESTING", "1")
    monkeypatch.setenv("MCX_FAILPOINT", "train.after_step:37=usr2")
    assert mcx(*WORDS, "--output-dir", tmp_path / "again").code == 75
    monkeypatch.delenv("MCX_FAILPOINT")
    return tmp_path / "again/seed0"


def test_best_weights_that_are_lost_are_found_again(mcx: Callable, stopped: Path, tmp_path: Path) -> None:
    """Those of a finished task from the checkpoint of its end, those of a running one by going back."""
    (stopped / "task-0.pt").write_bytes(b"PK")
    bests = list((stopped / ".mcx/train").glob("best-*.pt"))
    assert bests
    for path in bests:
        path.unlink()
    done = mcx(*WORDS, "--output-dir", tmp_path / "again")
    assert done.code == 0, done.err
    assert "cannot be gone on from without these best weights" in done.err
    whole, again = results(tmp_path / "whole/seed0"), results(stopped)
    assert list(again) == list(whole)
    assert [name for name in whole if again[name] != whole[name]] == []
    assert not list((stopped / ".mcx/train").glob("best-*.pt"))


def test_best_weights_of_epochs_that_are_trained_again_are_not_taken(
    mcx: Callable, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on other hardware: what is trained again is worse, and the files of the first time still lie there."""
    for path in (*stopped.glob("checkpoint-[4-9].pt"), stopped / "last.pt"):
        path.unlink(missing_ok=True)
    real = evaluation.evaluate_seen

    def worse(*words: Any) -> Any:
        found = real(*words)
        return None if found is None else replace(found, correct=found.correct // 9)

    monkeypatch.setattr(evaluation, "evaluate_seen", worse)
    done = mcx(*WORDS, "--output-dir", tmp_path / "again")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    for task in range(3):
        own = rows[3 * task : 3 * task + 3]
        best = max(own, key=lambda row: (row["val_accuracy"], -row["epoch"]))["epoch"]
        assert own[-1]["weights_of_epoch"] == best
        assert checkpoints.read(stopped / f"task-{task}.pt").epoch == best


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.jsonl", b"hello\n", "is not the log of a training"),
        ("metrics.jsonl", b"[1]\n", "is not the log of a training"),
        ("sample_tracking_data_final.csv", b"a,b,c,d,e,f,g\n" * 900, "is not the tracking of a training"),
    ],
)
def test_files_that_are_something_else_are_one_line(
    mcx: Callable, stopped: Path, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (stopped / name).write_bytes(content)
    done = mcx(*WORDS, "--output-dir", tmp_path / "again")
    assert (done.code, said in done.err, "--no-resume --overwrite" in done.err) == (3, True, True), done.err


@pytest.mark.parametrize("content", [{"a": 1}, {"epoch": 5}, torch.zeros(2)])
def test_a_last_state_that_is_none_is_set_aside(
    mcx: Callable, stopped: Path, tmp_path: Path, content: Any
) -> None:
    with (stopped / "last.pt").open("wb") as stream:
        torch.save(content, stream)
    done = mcx(*WORDS, "--output-dir", tmp_path / "again")
    assert (done.code, "is no state of a training" in done.err) == (0, True), done.err
    assert (stopped / "last.pt.corrupt").exists()
    (stopped / "last.pt.corrupt").unlink()
    assert results(stopped) == results(tmp_path / "whole/seed0")


def test_without_a_checkpoint_nothing_is_trained_again_silently(
    mcx: Callable, stopped: Path, tmp_path: Path
) -> None:
    for path in stopped.glob("*.pt"):
        path.unlink()
    done = mcx(*WORDS, "--output-dir", tmp_path / "again")
    assert (done.code, "no checkpoint is left of the" in done.err) == (3, True), done.err


@pytest.mark.parametrize("lost", ["a row", "half an epoch", "rows within"])
def test_no_row_is_lost_unnoticed(mcx: Callable, stopped: Path, tmp_path: Path, lost: str) -> None:
    path = stopped / "sample_tracking_data_final.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    kept = {"a row": lines[:-1], "half an epoch": lines[:-400], "rows within": lines[:200] + lines[400:]}[
        lost
    ]
    path.write_bytes(b"".join(kept))
    done = mcx(*WORDS, "--output-dir", tmp_path / "again")
    assert (done.code, "from which the training goes on" in done.err) == (3, True), done.err


def test_recorded_losses_that_are_cut_off_are_refused(mcx: Callable, stopped: Path, tmp_path: Path) -> None:
    path = stopped / "recorded_losses/loss_digits_epoch_1.npy"
    path.write_bytes(path.read_bytes()[:400])
    done = mcx(*WORDS, "--output-dir", tmp_path / "again")
    assert (done.code, str(path) in done.err) == (3, True), done.err
