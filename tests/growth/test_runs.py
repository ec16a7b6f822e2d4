"""What a run does once it does once: counted at sizes n, 2n and 4n, never timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modeconn_cli.engine import datasets
from modeconn_cli.engine.commands.lmc import figures
from modeconn_cli.engine.commands.lmc import plan as planning
from modeconn_cli.engine.networks import subject
from modeconn_cli.engine.paths import evaluate
from modeconn_cli.engine.settings.shared import DataSettings
from modeconn_cli.engine.training import tasks
from modeconn_cli.engine.training.metrics import LoggedEpoch

SIZES = (1, 2, 4)
SMALL = (
    "--model",
    "mlp",
    "--model-arg",
    "width=4,depth=1",
    "--dataset",
    "digits",
    "--max-samples",
    "40",
    "-q",
)


def experiment(n: int, folder: Path) -> tuple[Any, ...]:
    """n branches, each compared at n epochs."""
    k1, k2 = ",".join(map(str, range(n))), ",".join(map(str, range(1, n + 1)))
    return ("lmc", "run", *SMALL, "--k1", k1, "--k2", k2, "--num-alphas", "3", "--output-dir", folder)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time of a small experiment."""
    monkeypatch.setattr(figures, "story", lambda *_: b"figure")
    monkeypatch.setattr(figures, "maps", lambda *_: iter([b"figure"] * len(figures.MAPS)))


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("seeds", ["1", "1,2"])
def test_the_main_branch_is_read_and_measured_once_per_epoch_whatever_is_compared_with_it(
    mcx: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seeds: str
) -> None:
    measured, read = Counter[float](), Counter[Path]()

    real = evaluate.measure

    def measure(model: Any, data: Any, batch_size: int, t: float, *more: Any) -> Any:
        measured[t] += 1
        return real(model, data, batch_size, t, *more)

    def read_own(path: Path, real: Any = subject.read_own) -> Any:
        read[path] += 1
        return real(path)

    monkeypatch.setattr(evaluate, "measure", measure)
    monkeypatch.setattr(subject, "read_own", read_own)
    for n in SIZES:
        measured.clear()
        read.clear()
        done = mcx(*experiment(n, tmp_path / str(n)), "--branch-seed", seeds)
        assert done.code == 0, done.err
        lines, ends = n * n * len(seeds.split(",")), 2 * n - 1
        assert measured == {0.0: ends, 0.5: lines, 1.0: lines}
        of_main = {path: times for path, times in read.items() if path.parent.name == "main"}
        assert sorted(of_main.values()) == [1] * ends
        assert read.total() == ends + lines


@pytest.mark.usefixtures("plain")
def test_a_line_begins_with_the_same_bytes_whichever_line_came_first(mcx: Callable, tmp_path: Path) -> None:
    """An experiment that has grown pair by pair has taken nothing from the lines of other pairs."""
    assert mcx(*experiment(2, tmp_path / "whole")).code == 0
    for k2 in ("1", "1,2"):
        for k1 in ("0", "0,1"):
            words = experiment(2, tmp_path / "grown")
            done = mcx(*words, "--k1", k1, "--k2", k2, "--max-epochs", "3")
            assert done.code == 0, done.err
    every = sorted(path.name for path in (tmp_path / "whole/processed").iterdir())
    assert len(every) == 4
    for name in every:
        one, other = (tmp_path / place / "processed" / name for place in ("whole", "grown"))
        assert one.read_bytes() == other.read_bytes(), name


def test_a_plan_asks_once_per_branch_whether_early_stopping_has_ended_it(
    mcx: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(planning, "stopped_early", lambda folder, *_: bool(asked.append(folder)))
    for n in SIZES:
        asked.clear()
        words = (*experiment(n, tmp_path / str(n)), "--patience", "2", "--val-size", "10")
        assert mcx(*words, "--dry-run").code == 0
        assert max(Counter(asked).values()) <= 2  # for its epochs and for its positions
        assert len(set(asked)) == 1 + n


def test_the_log_of_a_run_is_not_gone_through_again_at_each_epoch(
    mcx: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looked = Counter[str]()

    def look(row: LoggedEpoch, name: str) -> Any:
        looked[name] += 1
        return object.__getattribute__(row, name)

    monkeypatch.setattr(LoggedEpoch, "__getattribute__", look)
    counts = []
    for n in SIZES:
        looked.clear()
        words = f"--classes-per-task 5 --epochs-per-task {4 * n} --val-size 10 --save-freq 1".split()
        done = mcx("train", *SMALL, *words, "--batch-size", "40", "--output-dir", tmp_path / str(n))
        assert done.code == 0, done.err
        counts.append(looked["epoch"] + looked["val_accuracy"])
    first, second, third = counts
    assert third - second < 2.5 * (second - first)  # a look through the log at each epoch: 4 times


def test_what_tasks_cost_is_counted_once_per_task_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps before each epoch are those of a plain sum, without a sum at each epoch."""
    samples = datasets.load(DataSettings(dataset="digits"), torch.device("cpu")).fit
    calls: list[int] = []
    monkeypatch.setattr(
        tasks, "spans", lambda *given, real=tasks.spans, **how: calls.append(0) or real(*given, **how)
    )
    for per_task in (5, 2, 1):
        order = tasks.Tasks(tuple(range(10)), per_task, 2)
        curriculum = tasks.Curriculum(samples, order)
        epochs = range(2 * order.count + 1)
        found = [curriculum.steps_before(epoch, 32) for epoch in epochs]
        assert len(calls) <= order.count + len(epochs)
        calls.clear()
        for epoch in epochs[:-1]:
            rows = torch.isin(samples.labels, order.seen_by(epoch + 1)).nonzero()[:, 0]
            assert torch.equal(curriculum.rows(epoch), rows)
            assert found[epoch + 1] - found[epoch] == len(tasks.spans(len(rows), 32, merge_single=True))
        calls.clear()
