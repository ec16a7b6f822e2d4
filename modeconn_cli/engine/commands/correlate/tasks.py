"""Classes that are added task by task: when the samples of each task were seen, and every metric of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modeconn_cli.engine.commands.correlate.table import SEEN, TASK
from modeconn_cli.engine.statistics import statistics


@dataclass(frozen=True)
class Task:
    """The samples first trained on in a task: the first and the last epoch of any, the mean number of times, and
    statistics of each metric over samples with a finite value.
    """

    task: int
    samples: int
    first_epoch: int | None
    last_epoch: int | None
    times_seen: float | None
    metrics: dict[str, dict[str, float | None]]


def split(columns: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
    """task -> the rows [n] of its samples; empty where no source names tasks."""
    if TASK not in columns:
        return {}
    numbers = columns[TASK]
    rows = np.argsort(numbers, kind="stable")  # NaN comes last
    rows = rows[: int((~np.isnan(numbers)).sum())]
    distinct, begins = np.unique(numbers[rows], return_index=True)
    return (
        dict(zip(distinct.astype(int).tolist(), np.split(rows, begins[1:]), strict=True)) if len(rows) else {}
    )


def progression(
    columns: Mapping[str, np.ndarray], rows: Mapping[int, np.ndarray], metrics: Sequence[str]
) -> list[Task]:
    """A line per task. Columns [N]."""
    out = []
    for task, chosen in rows.items():
        first, last, times = (_known(columns.get(name), chosen) for name in SEEN)
        out.append(
            Task(
                task=task,
                samples=len(chosen),
                first_epoch=int(first.min()) if len(first) else None,
                last_epoch=int(last.max()) if len(last) else None,
                times_seen=float(times.mean()) if len(times) else None,
                metrics={name: statistics(columns[name][chosen].astype(np.float64)) for name in metrics},
            )
        )
    return out


def _known(column: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    values = np.empty(0) if column is None else column[rows]
    known: np.ndarray = values[~np.isnan(values)]
    return known
