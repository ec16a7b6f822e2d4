"""Training into a job folder: checkpoints, metrics, early stopping, and continuing after a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from modeconn_cli.engine import names
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.errors import InputError, Stopped
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.jobs import Job
from modeconn_cli.engine.results.manifest import ANEW
from modeconn_cli.engine.training.best import Best, Rows
from modeconn_cli.engine.training.loop import Epoch, Position, Problem, Recipe, Watcher, fit, make_optimizer
from modeconn_cli.engine.training.tasks import Tasks

# The files of a run in its folder.
OWNED = (
    "checkpoint-*.pt", "*.pt.corrupt", "task-*.pt", "tasks.csv", "tasks.png", "class_order.npy", names.LAST,
    names.METRICS, names.LABEL_NOISE,
    names.TRACKING, names.TRACKING.replace(".csv", ".npz"), f"{names.RECORDED}/*",
)  # fmt: skip

SAVE_SECONDS = 20.0  # at most this much work is lost to a kill, or one epoch if that is longer


@dataclass(frozen=True)
class Keeping:
    """What is kept of a run. `save_freq` 0 keeps the first and the last checkpoint only."""

    folder: Path
    save_freq: int
    about: About
    patience: int | None = None
    min_delta: float = 0.0
    start: Path | None = None  # the checkpoint a branch begins from: weights, optimizer and epoch
    shown: Mapping[str, Any] = field(default_factory=dict)  # beside the metrics in the progress
    tasks: Tasks | None = None  # each ends with its best weights, and the next one begins from them


@dataclass(frozen=True)
class Trained:
    """The outcome: the last epoch, its metrics and its checkpoint."""

    epoch: int
    metrics: dict[str, Any]
    checkpoint: Path
    stopped_early: bool


def train(
    problem: Problem,
    samples: Samples,
    recipe: Recipe,
    runtime: Runtime,
    job: Job,
    keeping: Keeping,
    measure: Callable[[int], dict[str, float]],
    watchers: Sequence[Watcher] = (),
) -> Trained:
    """Train `problem` in `keeping.folder`, continuing from the newest checkpoint there.

    `measure(epoch)` gives further entries for the epoch's line in the metrics; with tasks the one of `val_accuracy`
    decides which weights a task ends with, its last ones where there is none. Raises Stopped after a signal.
    """
    optimizer = make_optimizer(problem, recipe)
    log = keeping.folder / names.METRICS
    best = Best(keeping.folder, job.private, keeping.tasks, keeping.about)
    rows = _rows(log)
    position, watched = _begin(problem, optimizer, keeping, job, runtime, best, rows)
    best.mend(position.epoch)
    rows = _truncate(log, rows, position.epoch, keeping)
    watch = _Watch(keeping, rows)
    for watcher in watchers:
        watcher.begin(position.epoch, position.batch, watched)
    saved = began = time.monotonic()
    if watch.out_of_patience or position.epoch >= recipe.epochs:
        return _finish(problem, optimizer, keeping, rows, watch, best)
    for end in fit(problem, optimizer, samples, recipe, runtime, position, keeping.tasks, watchers):
        if not end.complete:
            _save_last(problem, optimizer, keeping, end, watchers)
            raise _stopped(end)
        epoch, now = end.position.epoch, time.monotonic()
        row = {"epoch": epoch, "lr": end.lr, "train_loss": end.loss, "train_accuracy": end.accuracy}
        if end.loss != end.nll:
            row["train_nll"] = end.nll
        row |= measure(epoch)
        row["seconds"] = round(now - began, 3)
        began = time.monotonic()
        rows.append(row)
        best.see(problem, rows)
        ended = best.end(problem, rows, last=epoch == recipe.epochs)
        if ended:
            row["weights_of_epoch"] = ended["weights_of_epoch"]
        for watcher in watchers:
            watcher.end(epoch)
        # The line first: a checkpoint without its line could not be told from a finished epoch.
        files.append_line(log, json.dumps(row))
        shown = {k: value for k, value in row.items() if k not in ("epoch", "seconds", "weights_of_epoch")}
        runtime.progress(epoch, recipe.epochs, unit="epoch", **keeping.shown, **shown)
        watch.see(row)
        if epoch == recipe.epochs or ended or (keeping.save_freq and epoch % keeping.save_freq == 0):
            _publish(problem, optimizer, keeping, epoch, ended)
            best.settle(rows)
            saved = time.monotonic()
        elif runtime.stopping() or time.monotonic() - saved > SAVE_SECONDS:
            _save_last(problem, optimizer, keeping, end, ())
            best.settle(rows)
            saved = time.monotonic()
        if watch.out_of_patience:
            break
        if runtime.stopping() and epoch < recipe.epochs:
            raise _stopped(end)
    return _finish(problem, optimizer, keeping, rows, watch, best)


def _begin(
    problem: Problem,
    optimizer: Optimizer,
    keeping: Keeping,
    job: Job,
    runtime: Runtime,
    best: Best,
    rows: Rows,
) -> tuple[Position, Mapping[str, Tensor]]:
    """Where the run stands, and what its watchers knew there of an epoch in progress."""
    content = _newest(keeping.folder, runtime, best, rows) if job.resumed else None
    if content is None and keeping.start is not None:
        content = checkpoints.integrity.load(keeping.start)
    elif content is None and job.resumed and rows:
        raise InputError(f"no checkpoint is left of the {len(rows)} epochs in '{keeping.folder}'", ANEW)
    if content is None:
        _publish(problem, optimizer, keeping, 0)
        return Position(), {}
    return _take_up(problem, optimizer, content), content.get("watched", {})


def _rows(log: Path) -> list[dict[str, Any]]:
    """The lines of the log. Raises InputError for what is none."""
    try:
        rows = [json.loads(line) for line in files.read_lines(log)]
        if not all(isinstance(row["epoch"], int) for row in rows):
            raise ValueError("an epoch is no whole number")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{log}' is not the log of a training: {error}", ANEW) from error
    return rows


def stopped_early(folder: Path, patience: int | None, min_delta: float) -> bool:
    """Whether a run in a folder has come to its end before its last epoch."""
    rows = [json.loads(line) for line in files.read_lines(folder / names.METRICS)]
    return _Watch(Keeping(folder, 1, About(), patience, min_delta), rows).out_of_patience


class _Watch:
    """Early stopping on the validation loss."""

    def __init__(self, keeping: Keeping, rows: list[dict[str, Any]]) -> None:
        self._keeping = keeping
        self._best = float("inf")
        self._since = 0
        for row in rows:
            self.see(row)

    def see(self, row: Mapping[str, Any]) -> None:
        if self._keeping.patience is None:
            return
        if row["val_loss"] < self._best - self._keeping.min_delta:
            self._best, self._since = row["val_loss"], 0
        else:
            self._since += 1

    @property
    def out_of_patience(self) -> bool:
        return self._keeping.patience is not None and self._since >= self._keeping.patience


def _finish(
    problem: Problem,
    optimizer: Optimizer,
    keeping: Keeping,
    rows: list[dict[str, Any]],
    watch: _Watch,
    best: Best,
) -> Trained:
    epoch = rows[-1]["epoch"] if rows else 0
    path = keeping.folder / names.checkpoint(epoch)
    if not path.exists():
        _publish(problem, optimizer, keeping, epoch)
    (keeping.folder / names.LAST).unlink(missing_ok=True)
    best.clear()
    return Trained(epoch, rows[-1] if rows else {}, path, watch.out_of_patience)


def _stopped(end: Epoch) -> Stopped:
    return Stopped(
        f"stopped by a signal and saved at epoch {end.position.epoch}, batch {end.position.batch}",
        "run the same command again to continue",
    )


def _publish(
    problem: Problem,
    optimizer: Optimizer,
    keeping: Keeping,
    epoch: int,
    more: Mapping[str, int] | None = None,
) -> None:
    content = {
        "epoch": epoch,
        **problem.content(),
        "optimizer_state": optimizer.state_dict(),
        "mcx": {**keeping.about.entry(), **(more or {})},
    }
    files.write_tensors(keeping.folder / names.checkpoint(epoch), content)


def _save_last(
    problem: Problem, optimizer: Optimizer, keeping: Keeping, end: Epoch, watchers: Sequence[Watcher]
) -> None:
    content = {
        "epoch": end.position.epoch,
        **problem.content(),
        "optimizer_state": optimizer.state_dict(),
        "mcx": keeping.about.entry(),
        "position": asdict(end.position) if not end.complete else None,
        "watched": {name: value for watcher in watchers for name, value in watcher.state().items()},
    }
    files.write_tensors(keeping.folder / names.LAST, content)


def _newest(folder: Path, runtime: Runtime, best: Best, rows: Rows) -> Mapping[str, Any] | None:
    """The newest state in the folder that can be gone on from; None where there is none at all.

    Damaged ones are set aside as long as there is another. Raises InputError where there is not.
    """
    last = folder / names.LAST
    found = {path: (names.epoch_of(path) or 0, 0) for path in folder.glob("checkpoint-*.pt")}
    found = {path: place for path, place in found.items() if names.epoch_of(path) is not None}
    damaged: dict[Path, InputError] = {}
    left: list[Path] = []
    if last.exists():
        try:
            content = _state(last)
            found[last] = content["epoch"], (content.get("position") or {}).get("batch", 0)
        except InputError as error:
            damaged[last] = error
    chosen = None
    for path in sorted(found, key=lambda path: found[path], reverse=True):
        try:
            content = _state(path)
        except InputError as error:
            damaged[path] = error
            continue
        lost = best.lacks([row for row in rows if row["epoch"] <= content["epoch"]])
        if lost is None:
            chosen = content
            break
        left.append(path)
        runtime.warn(f"{lost.message}: '{path.name}' cannot be gone on from without these best weights")
    if chosen is None and (damaged or left):
        reason = next((each.message for each in damaged.values()), "the best weights of every task are lost")
        raise InputError(f"{reason}, and so is every state before it", ANEW)
    for path, reason_ in damaged.items():
        aside = path.with_name(f"{path.name}.corrupt")
        path.replace(aside)
        runtime.warn(f"{reason_.message}: kept as '{aside.name}', going on from the one before")
    for path in left:
        path.unlink()  # it is made again
    return chosen


def _state(path: Path) -> Mapping[str, Any]:
    """A checkpoint that a training can go on from. Raises InputError for anything else."""
    content: Mapping[str, Any] = checkpoints.integrity.load(path)
    known = isinstance(content, Mapping) and isinstance(content.get("epoch"), int)
    if not known or "optimizer_state" not in content:
        raise InputError(f"'{path}' is no state of a training")
    return content


def _take_up(problem: Problem, optimizer: Optimizer, content: Mapping[str, Any]) -> Position:
    """Weights, optimizer and position of a checkpoint."""
    problem.restore(content)
    optimizer.load_state_dict(content["optimizer_state"])
    inside = content.get("position")
    return Position(**inside) if inside else Position(epoch=content["epoch"])


def _truncate(log: Path, rows: list[dict[str, Any]], epoch: int, keeping: Keeping) -> list[dict[str, Any]]:
    """Drop the lines of epochs that will be trained again and one that a kill cut off; begin a log that is missing."""
    kept = [row for row in rows if row["epoch"] <= epoch]
    begun = 0 if keeping.start is None else names.epoch_of(keeping.start) or 0
    if len(kept) < epoch - begun:
        raise InputError(f"'{log}' has {len(kept)} lines, the checkpoint is at epoch {epoch}", ANEW)
    text = "".join(json.dumps(row) + "\n" for row in kept)
    if not log.exists() or log.read_bytes() != text.encode():
        files.write_text(log, text)
    return kept
