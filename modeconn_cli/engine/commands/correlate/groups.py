"""Samples of one class or one task: means and standard deviations, and how a task's samples were trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.correlate.join import CLASS, SEEN, TASK
from modeconn_cli.engine.statistics import statistics


def grouped(table: pd.DataFrame, keys: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """The samples with all `keys`, grouped by them: the keys, `n`, and mean, sd (ddof 1) and n of each metric.

    The statistics are over finite values, in columns `<metric>_mean`, `<metric>_sd` and `<metric>_n`.
    """
    by = [table[key] for key in keys]
    columns = {"n": table.groupby(by).size()}
    for name in metrics:
        values = table[name].astype(np.float64).where(np.isfinite(table[name]))
        # A power of two, which changes no digit: squares of the largest numbers would overflow.
        scale = 2.0 ** (math.frexp(max(1.0, values.abs().max()))[1] - 1)
        found = (values / scale).groupby(by).agg(["mean", "std", "count"])
        columns[f"{name}_mean"], columns[f"{name}_sd"] = found["mean"] * scale, found["std"] * scale
        columns[f"{name}_n"] = found["count"]
    return pd.DataFrame(columns).reset_index().astype(dict.fromkeys(keys, np.int64))


@dataclass(frozen=True)
class TaskSamples:
    """The samples first trained on in a task: the first and the last epoch of any, the mean number of times, and
    statistics of each metric over samples with a finite value.
    """

    task: int
    samples: int
    first_epoch: int | None
    last_epoch: int | None
    times_seen: float | None
    metrics: dict[str, dict[str, float | None]]


def by_task(table: pd.DataFrame, metrics: Sequence[str]) -> list[TaskSamples]:
    """What is said of the samples of each task."""
    tasks = []
    for task, own in table.groupby(table[TASK].astype("Int64")):
        first, last, times = (own[name].dropna() if name in own else pd.Series(dtype=float) for name in SEEN)
        tasks.append(
            TaskSamples(
                task=int(task),
                samples=len(own),
                first_epoch=None if first.empty else int(first.min()),
                last_epoch=None if last.empty else int(last.max()),
                times_seen=None if times.empty else float(times.mean()),
                metrics={name: statistics(own[name].to_numpy(np.float64)) for name in metrics},
            )
        )
    return tasks


def with_names(groups: pd.DataFrame, names: Mapping[int, str]) -> pd.DataFrame:
    """Groups by class with a column `class_name` before their sizes; a class without a name has an empty one."""
    if CLASS not in groups:
        return groups
    out = groups.copy(deep=False)
    out.insert(list(out).index("n"), "class_name", [names.get(number, "") for number in groups[CLASS]])
    return out


def with_exposures(groups: pd.DataFrame, tasks: Sequence[TaskSamples]) -> pd.DataFrame:
    """Groups by task with three columns more: when their samples were seen."""
    seen = pd.DataFrame([[getattr(task, name) for name in SEEN] for task in tasks], columns=SEEN)
    whole = seen.astype({SEEN[0]: "Int64", SEEN[1]: "Int64"})
    return groups.join(whole.rename(columns={SEEN[2]: f"{SEEN[2]}_mean"}))
