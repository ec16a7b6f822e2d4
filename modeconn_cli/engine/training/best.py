"""The best weights of each task of a run, by the validation images; without any the last ones.

While a task goes on they lie in the job's private folder, a file for each epoch that was the best one: those that a
checkpoint needs are there when it is gone on from, whatever came after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import checkpoints
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.manifest import ANEW
from modeconn_cli.engine.training.loop import Problem
from modeconn_cli.engine.training.metrics import LoggedEpoch
from modeconn_cli.engine.training.tasks import Tasks

Rows = Sequence[LoggedEpoch]  # in the order of epochs


class Best:
    """Keeps the best weights of the tasks of a run in `folder`; without tasks it does nothing."""

    def __init__(self, folder: Path, private: Path, tasks: Tasks | None, about: About) -> None:
        self._folder, self._private, self._tasks, self._about = folder, private, tasks, about

    def _path(self, epoch: int) -> Path:
        return self._private / f"best-{epoch}.pt"

    @staticmethod
    def _epoch(tasks: Tasks, rows: Rows) -> int:
        """The epoch of the best weights so far of the last row's task; the first of equal ones."""
        own = [row for row in rows if tasks.at(row.epoch - 1) == tasks.at(rows[-1].epoch - 1)]
        measured = [(row.val_accuracy, -row.epoch) for row in own if row.val_accuracy is not None]
        return -max(measured)[1] if measured else own[-1].epoch

    def see(self, problem: Problem, rows: Rows) -> None:
        """Keep the weights of the last row's epoch where they are its task's best so far."""
        epoch = rows[-1].epoch
        if self._tasks is not None and self._epoch(self._tasks, rows) == epoch:
            files.write_tensors(self._path(epoch), {"epoch": epoch, **problem.content()})

    def end(self, problem: Problem, rows: Rows, last: bool) -> About | None:
        """A task ends with its best weights, which the checkpoint of its end says; None where none ends whole.

        A run's end may cut a task short.
        """
        epoch = rows[-1].epoch
        if self._tasks is None or not (last or self._tasks.ends(epoch)):
            return None
        task, best = self._tasks.at(epoch - 1), self._epoch(self._tasks, rows)
        content, about = checkpoints.integrity.load(self._path(best)), self._about.of_task(task, best)
        _write(self._folder / names.task(task), content, about)
        if not self._tasks.ends(epoch):
            return None
        problem.restore(content)
        return about

    def settle(self, rows: Rows) -> None:
        """A checkpoint of the last row's epoch is on the disk: earlier best weights are not asked for again."""
        if self._tasks is None:
            return
        kept = None if self._tasks.ends(rows[-1].epoch) else self._path(self._epoch(self._tasks, rows))
        for path in self._private.glob("best-*.pt"):
            if path != kept:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """The run is over."""
        for path in self._private.glob("best-*.pt"):
            path.unlink(missing_ok=True)

    def lacks(self, rows: Rows) -> InputError | None:
        """Why a run cannot go on after these rows, whose best weights are asked for in the end of their task."""
        if self._tasks is None or not rows or self._tasks.ends(rows[-1].epoch):
            return None
        try:
            checkpoints.integrity.load(self._path(self._epoch(self._tasks, rows)))
        except InputError as error:
            return error
        return None

    def mend(self, epoch: int) -> None:
        """Make the files of finished tasks again that cannot be read, from the checkpoints of their ends."""
        if self._tasks is None:
            return
        for task in range(min(epoch // self._tasks.epochs, self._tasks.count)):
            path, end = self._folder / names.task(task), (task + 1) * self._tasks.epochs
            try:
                checkpoints.integrity.load(path)
            except InputError as error:
                try:
                    content = checkpoints.integrity.load(self._folder / names.checkpoint(end))
                    about = self._about.of_task(task, content["mcx"]["weights_of_epoch"])
                except (InputError, KeyError, TypeError):
                    raise InputError(error.message, ANEW) from error
                _write(path, content, about)


def _write(path: Path, content: Mapping[str, Any], about: About) -> None:
    """The weights that a task ends with."""
    state = {
        name: value for name, value in content.items() if name not in ("optimizer_state", "mcx", "epoch")
    }
    files.write_tensors(path, checkpoints.content(about.weights_of_epoch or 0, state, about))
