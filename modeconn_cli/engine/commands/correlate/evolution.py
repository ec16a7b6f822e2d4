"""Dormancy over the epochs of a folder: of all samples, of flagged against unflagged ones, of every task's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.correlate import sources
from modeconn_cli.engine.commands.correlate.join import TASK
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
    said = {"flag": table[flag] if flag else np.nan, "task": table[task] if task else np.nan}
    samples = pd.DataFrame(said, index=table.index)
    return [row for epoch, path in paths.items() for row in _epoch(epoch, path, assume, samples)]


def _epoch(epoch: int, path: Path, assume: bool, samples: pd.DataFrame) -> Iterator[DormancyAt]:
    source = sources.dormant(path, assume)
    joined = source.table.join(samples, how="inner")
    for metric in source.metrics:
        finite = joined[np.isfinite(joined[metric])]
        yield _of_samples(epoch, metric, None, finite)
        for task, own in finite.groupby("task"):
            yield _of_samples(epoch, metric, int(task), own)


def _of_samples(epoch: int, metric: str, task: int | None, finite: pd.DataFrame) -> DormancyAt:
    values = finite[metric].to_numpy(np.float64)
    flagged, unflagged = (values[finite["flag"] == mark] for mark in (1, 0))
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
