"""Dormancy over the epochs of a folder: of all samples, of flagged against unflagged ones, of every task's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.correlate import sources
from modeconn_cli.engine.commands.correlate.join import TASK
from modeconn_cli.engine.commands.correlate.sources import Source
from modeconn_cli.engine.statistics import NAMES, statistics


@dataclass(frozen=True)
class DormancyAt:
    """One metric at one epoch over samples with a finite value, None where there is none; `task` None: of all tasks."""

    epoch: int
    metric: str
    task: int | None
    samples: int
    statistics: dict[str, float | None]
    flagged_mean: float | None
    unflagged_mean: float | None


def follow(
    paths: Mapping[int, Path], assume: bool, table: pd.DataFrame, flag: str | None, task: str | None
) -> list[DormancyAt]:
    """Statistics of every epoch over the samples of `table`, one epoch in memory at a time: epoch -> file.

    The column `flag` of the table tells its samples apart, the column `task` says their tasks.
    """
    samples = _Samples(table, flag, task)
    # The split, which the records of the folder tell, is that of the newest epoch.
    return [
        row
        for epoch, path in paths.items()
        for row in samples.at(epoch, sources.dormant(path, assume, split=""))
    ]


class _Samples:
    """The samples of a table, which are found in the arrays of the first epoch and stay where they are."""

    def __init__(self, table: pd.DataFrame, flag: str | None, task: str | None) -> None:
        self._index = table.index
        self._flags, self._tasks = (
            np.full(len(table), np.nan) if name is None else table[name].to_numpy(np.float64)
            for name in (flag, task)
        )
        self._ids: pd.Index | None = None

    def _find(self, ids: pd.Index) -> None:
        """Which of the `ids` are samples of the table, and their flags and tasks in the order of the ids."""
        if self._ids is not None and ids.equals(self._ids):
            return
        places = self._index.get_indexer(ids)
        self._ids, self._kept = ids, places >= 0
        self._own_flags, self._own_tasks = (
            values[places[self._kept]] for values in (self._flags, self._tasks)
        )
        self._every_task = np.unique(self._own_tasks[~np.isnan(self._own_tasks)])

    def at(self, epoch: int, source: Source) -> Iterator[DormancyAt]:
        self._find(source.table.index)
        for metric in source.metrics:
            values = source.table[metric].to_numpy()[self._kept]
            finite = np.isfinite(values)
            values, flags, tasks = (values[finite], self._own_flags[finite], self._own_tasks[finite])
            yield _of_samples(epoch, metric, None, values, flags)
            for task in self._every_task:
                own = tasks == task
                if own.any():
                    yield _of_samples(epoch, metric, int(task), values[own], flags[own])


def _of_samples(
    epoch: int, metric: str, task: int | None, values: np.ndarray, flags: np.ndarray
) -> DormancyAt:
    values = values.astype(np.float64)
    flagged, unflagged = (values[flags == mark] for mark in (1, 0))
    return DormancyAt(
        epoch=epoch,
        metric=metric,
        task=task,
        samples=len(values),
        statistics=statistics(values),
        flagged_mean=float(flagged.mean()) if len(flagged) else None,
        unflagged_mean=float(unflagged.mean()) if len(unflagged) else None,
    )


def table(rows: Sequence[DormancyAt]) -> pd.DataFrame:
    """A row per epoch and metric for all samples, whose task is empty, and for those of each task."""
    cells = pd.DataFrame([{**vars(row), TASK: row.task, **row.statistics} for row in rows])
    order = ["epoch", "metric", TASK, "samples", *NAMES, "flagged_mean", "unflagged_mean"]
    return cells[order].astype({TASK: "Int64"})
