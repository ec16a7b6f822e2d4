"""Training into a job folder: checkpoints, metrics, early stopping, and continuing after a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from modeconn_cli.engine import names
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.errors import CONTINUE, InputError, Stopped
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.results.jobs import Job
from modeconn_cli.engine.results.kept import Kept
from modeconn_cli.engine.results.manifest import ANEW
from modeconn_cli.engine.training import task_results
from modeconn_cli.engine.training.best import Best
from modeconn_cli.engine.training.halves import Halves
from modeconn_cli.engine.training.loop import (
    Diverged,
    Problem,
    Recipe,
    StepPosition,
    Watcher,
    fit,
    make_optimizer,
)
from modeconn_cli.engine.training.metrics import LoggedEpoch, MetricsLog, Patience
from modeconn_cli.engine.training.tasks import Tasks

# The files of a run in its folder.
OWNED = (
    "checkpoint-*.pt", "*.pt.corrupt", "task-*.pt", *task_results.OWNED, names.LAST,
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
    tasks: Tasks | None = None  # each ends with its best weights, and the next one begins from them
    halves: Halves | None = None


@dataclass(frozen=True)
class Trained:
    """The outcome: the last epoch and its checkpoint."""

    epoch: int
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

    `measure(epoch)` gives further entries for the epoch's line in the log; with tasks the one of `val_accuracy`
    decides which weights a task ends with, its last ones where there is none. Raises Stopped after a signal.
    """
    run = _Run(problem, make_optimizer(problem, recipe), keeping, job, runtime, watchers)
    if run.patience.over or run.position.epoch >= recipe.epochs:
        return run.finished()
    if job.resumed and (run.position.epoch or run.position.batch):
        at = f"epoch {run.position.epoch}" + (f", batch {run.position.batch}" if run.position.batch else "")
        runtime.note(f"continuing '{keeping.folder}' from {at}")
    began = time.monotonic()
    plan = keeping.tasks or keeping.halves
    ends = fit(problem, run.optimizer, samples, recipe, runtime, run.position, plan, watchers)
    for end in run.finite(ends):
        if end.batch:
            run.save(end, watched=True)
            raise _stopped(end)
        seconds = round(time.monotonic() - began, 3)
        row = LoggedEpoch(
            epoch=end.epoch,
            lr=recipe.lr_at(end.epoch),
            train_loss=end.loss,
            train_accuracy=end.accuracy,
            train_nll=None if end.loss == end.nll else end.nll,
            seconds=seconds,
            **measure(end.epoch),  # type: ignore[arg-type] # names of numbers that are floats
        )
        began = time.monotonic()
        run.end_epoch(row, recipe.epochs)
        if run.patience.over:
            break
        if runtime.stopping() and end.epoch < recipe.epochs:
            raise _stopped(end)
    return run.finished()


def stopped_early(folder: Path, patience: int | None, min_delta: float) -> bool:
    """Whether a run in a folder has come to its end before its last epoch."""
    return Patience(patience, min_delta, MetricsLog(folder).rows).over


class _Run:
    """A training in its folder: it begins where an earlier run left off, and keeps what is to be kept."""

    def __init__(
        self, problem: Problem, optimizer: Optimizer, keeping: Keeping, job: Job, runtime: Runtime,
        watchers: Sequence[Watcher],
    ) -> None:  # fmt: skip
        self.problem, self.optimizer, self.keeping = problem, optimizer, keeping
        self.runtime, self.watchers, self.kept = runtime, watchers, job.kept
        begun = 0 if keeping.start is None else names.epoch_of(keeping.start) or 0
        self.log = MetricsLog(keeping.folder, begun)
        self.best = Best(keeping.folder, job.private, keeping.tasks, keeping.about)
        self.best.begin(self.log.rows)
        content = self._begun(job)
        self.position = _position(content)
        self.best.mend(self.position.epoch)
        self.log.cut(self.position.epoch)
        self.patience = Patience(keeping.patience, keeping.min_delta, self.log.rows)
        for watcher in watchers:
            watcher.begin(self.position.epoch, self.position.batch, content.get("watched", {}))
        self._saved = time.monotonic()

    def _begun(self, job: Job) -> Mapping[str, Any]:
        """The state that the run goes on from; empty at the very beginning."""
        folder, start = self.keeping.folder, self.keeping.start
        content = _newest(folder, self.runtime, self.best, self.log, job.kept) if job.resumed else None
        if content is None and start is not None:
            job.kept.check(start)
            content = checkpoints.integrity.load(start)
        elif content is None and job.resumed and self.log.rows:
            raise InputError(f"no checkpoint is left of the {len(self.log.rows)} epochs in '{folder}'", ANEW)
        if content is None:
            self._publish(0)
            return {}
        self.problem.restore(content)
        self.optimizer.load_state_dict(content["optimizer_state"])
        return content

    def finite(self, ends: Iterator[StepPosition]) -> Iterator[StepPosition]:
        """The ends of epochs. Where the loss stops being finite, the error names the last checkpoint before that."""
        try:
            yield from ends
        except Diverged as error:
            saved = self.keeping.folder.glob("checkpoint-*.pt")
            last = max(saved, key=lambda path: names.epoch_of(path) or 0, default=self.keeping.start)
            raise InputError(
                f"{error.message}; the last finite checkpoint is '{last}'", error.hint
            ) from error

    def end_epoch(self, row: LoggedEpoch, epochs: int) -> None:
        """Log an epoch that is completed, and save it where that is due."""
        keeping, epoch = self.keeping, row.epoch
        self.best.see(self.problem, row)
        ended = self.best.end(self.problem, epoch, last=epoch == epochs)
        row = replace(row, weights_of_epoch=None if ended is None else ended.weights_of_epoch)
        for watcher in self.watchers:
            watcher.end(epoch)
        # The line first: a checkpoint without its line could not be told from a finished epoch.
        self.log.add(row)
        shown = {
            name: value for name, value in row.known().items() if name not in ("epoch", "weights_of_epoch")
        }
        self.runtime.progress(epoch, epochs, unit="epoch", **shown)
        self.patience.see(row)
        if epoch == epochs or ended or (keeping.save_freq and epoch % keeping.save_freq == 0):
            self._publish(epoch, ended)
        elif self.runtime.stopping() or time.monotonic() - self._saved > SAVE_SECONDS:
            self.save(StepPosition(epoch))
        else:
            return
        self.best.settle(epoch)
        self._saved = time.monotonic()

    def _content(self, epoch: int, about: About) -> dict[str, Any]:
        return checkpoints.content(epoch, self.problem.content(), about, self.optimizer.state_dict())

    def _publish(self, epoch: int, about: About | None = None) -> None:
        """A checkpoint of an epoch; where a task ends it says so."""
        content = self._content(epoch, about or self.keeping.about)
        self.kept.write(self.keeping.folder / names.checkpoint(epoch), content)

    def save(self, at: StepPosition, *, watched: bool = False) -> None:
        """The state to go on from; within an epoch with its sums and with what was `watched` in it."""
        known = {name: value for each in self.watchers if watched for name, value in each.state().items()}
        inside = {"position": asdict(at) if watched else None, "watched": known}
        self.kept.write(
            self.keeping.folder / names.LAST, self._content(at.epoch, self.keeping.about) | inside
        )

    def finished(self) -> Trained:
        """The run is over."""
        epoch = self.log.epoch
        path = self.keeping.folder / names.checkpoint(epoch)
        if not path.exists():
            self._publish(epoch)
        (self.keeping.folder / names.LAST).unlink(missing_ok=True)
        self.best.clear()
        return Trained(epoch, path, self.patience.over)


def _stopped(at: StepPosition) -> Stopped:
    return Stopped(f"stopped at epoch {at.epoch}" + (f", batch {at.batch}" if at.batch else ""), CONTINUE)


def _newest(
    folder: Path, runtime: Runtime, best: Best, log: MetricsLog, kept: Kept
) -> Mapping[str, Any] | None:
    """The newest state in the folder that can be gone on from; None where there is none at all.

    Damaged ones are set aside as long as there is another. Raises InputError where there is not, for a whole one that
    the job has not written, and where the log lacks epochs of the newest.
    """
    damaged: dict[Path, InputError] = {}
    left: list[Path] = []

    def state(path: Path) -> Mapping[str, Any] | None:
        try:
            return _state(path)
        except InputError as error:
            damaged[path] = error
            return None

    found = {
        path: (epoch, 0)
        for path in folder.glob("checkpoint-*.pt")
        if (epoch := names.epoch_of(path)) is not None
    }
    last = folder / names.LAST
    if last.exists() and (content := state(last)) is not None:
        at = _position(content)
        found[last] = at.epoch, at.batch
    chosen = None
    for path in sorted(found, key=lambda path: found[path], reverse=True):
        content = state(path)
        if content is None:
            continue
        log.check(content["epoch"])
        lost = best.lacks(content["epoch"])
        if lost is None:
            kept.check(path)
            chosen = content
            break
        left.append(path)
        runtime.warn(f"{lost.message}: '{path.name}' cannot be gone on from without these best weights")
    if chosen is None and (damaged or left):
        reason = next((each.message for each in damaged.values()), "the best weights of every task are lost")
        raise InputError(f"{reason}, and so is every state before it", ANEW)
    for path, error in damaged.items():
        aside = path.with_name(f"{path.name}.corrupt")
        path.replace(aside)
        runtime.warn(f"{error.message}: kept as '{aside.name}', going on from the one before")
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


def _position(content: Mapping[str, Any]) -> StepPosition:
    """Where a state stands."""
    inside = content.get("position")
    return StepPosition(**inside) if inside else StepPosition(content.get("epoch", 0))
