"""The best weights of each task of a run, by the validation images; without any the last ones.

While a task goes on they lie in the job's private folder, a file for each epoch that was the best one: those that a
checkpoint needs are there when it is gone on from, whatever came after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


class Best:
    """Keeps the best weights of the tasks of a run in `folder`; without tasks it does nothing."""

    def __init__(self, folder: Path, private: Path, tasks: Tasks | None, about: About) -> None:
        self._folder, self._private, self._tasks, self._about = folder, private, tasks, about
        self._best: dict[
            int, LoggedEpoch
        ] = {}  # completed epochs -> the best one so far of the task of the last

    def begin(self, rows: Iterable[LoggedEpoch]) -> None:
        """The log of the run so far, in the order of epochs: it is gone on with after these, or after some of them."""
        for row in rows:
            self._follow(row)

    def _path(self, epoch: int) -> Path:
        return self._private / f"best-{epoch}.pt"

    def _follow(self, row: LoggedEpoch) -> None:
        """The best epoch so far of a row's task, by that of the row before; the first of equal ones."""
        if self._tasks is None:
            return
        best, own = self._best.get(row.epoch - 1), row.val_accuracy
        begins = best is None or self._tasks.at(best.epoch - 1) != self._tasks.at(row.epoch - 1)
        known = None if best is None or begins else best.val_accuracy
        stays = known is not None and (own is None or own <= known)
        self._best[row.epoch] = best if best is not None and stays else row

    def see(self, problem: Problem, row: LoggedEpoch) -> None:
        """Keep the weights of an epoch that is completed where they are its task's best so far."""
        self._follow(row)
        if self._tasks is not None and self._best[row.epoch] is row:
            files.write_tensors(self._path(row.epoch), {"epoch": row.epoch, **problem.content()})

    def end(self, problem: Problem, epoch: int, last: bool) -> About | None:
        """A task ends with its best weights, which the checkpoint of its end says; None where none ends whole.

        A run's end may cut a task short.
        """
        if self._tasks is None or not (last or self._tasks.ends(epoch)):
            return None
        task, best = self._tasks.at(epoch - 1), self._best[epoch].epoch
        content, about = checkpoints.integrity.load(self._path(best)), self._about.of_task(task, best)
        _write(self._folder / names.task(task), content, about)
        if not self._tasks.ends(epoch):
            return None
        problem.restore(content)
        return about

    def settle(self, epoch: int) -> None:
        """A checkpoint of an epoch is on the disk: earlier best weights are not asked for again."""
        if self._tasks is None:
            return
        kept = None if self._tasks.ends(epoch) else self._path(self._best[epoch].epoch)
        for path in self._private.glob("best-*.pt"):
            if path != kept:
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        """The run is over."""
        for path in self._private.glob("best-*.pt"):
            path.unlink(missing_ok=True)

    def lacks(self, epoch: int) -> InputError | None:
        """Why a run cannot go on after an epoch, whose best weights are asked for in the end of its task."""
        if self._tasks is None or epoch not in self._best or self._tasks.ends(epoch):
            return None
        try:
            checkpoints.integrity.load(self._path(self._best[epoch].epoch))
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
