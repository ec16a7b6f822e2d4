"""Dormancy over the epochs of a folder: of all samples, of flagged against unflagged ones, of every task's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeconn_cli.engine.commands.correlate import sources
from modeconn_cli.engine.commands.correlate.sources import Source
from modeconn_cli.engine.statistics import statistics

METRICS = ("dormant_prop", "dormant_post")


@dataclass(frozen=True)
class Epoch:
    """One metric at one epoch over samples with a finite value, None where there is none; `task` None: of all tasks."""

    epoch: int
    metric: str
    task: int | None
    samples: int
    statistics: dict[str, float | None]
    flagged_mean: float | None
    unflagged_mean: float | None


def follow(
    paths: Mapping[int, Path],
    assume: bool,
    joined: np.ndarray,
    flag: Source | None,
    tasks: Mapping[int, np.ndarray],
) -> list[Epoch]:
    """Statistics of every epoch over the samples that were joined, one epoch in memory at a time.

    `joined`: their ids, ascending. The first column of `flag` tells samples apart; `tasks`: task -> the ids of its
    samples, ascending.
    """
    out: list[Epoch] = []
    for epoch, path in paths.items():
        source = sources.in_order(sources.dormant(epoch, path, assume))
        marks = np.full(len(source.ids), np.nan)
        if flag is not None:
            place = sources.places(flag.ids, source.ids)
            marks[place >= 0] = next(iter(flag.flags.values()))[place[place >= 0]]
        for metric in METRICS:
            if metric in source.metrics:
                values = source.metrics[metric].astype(np.float64)
                values[sources.places(joined, source.ids) < 0] = np.nan
                out += _epoch(epoch, metric, values, marks, source.ids, tasks)
    return out


def _epoch(
    epoch: int,
    metric: str,
    values: np.ndarray,
    marks: np.ndarray,
    ids: np.ndarray,
    tasks: Mapping[int, np.ndarray],
) -> Iterator[Epoch]:
    groups: dict[int | None, np.ndarray] = {None: np.ones(len(ids), dtype=bool)}
    groups |= {task: sources.places(members, ids) >= 0 for task, members in tasks.items()}
    for task, inside in groups.items():
        chosen = inside & np.isfinite(values)
        if task is not None and not chosen.any():
            continue  # not seen yet
        yield Epoch(
            epoch=epoch,
            metric=metric,
            task=task,
            samples=int(chosen.sum()),
            statistics=statistics(values[chosen]),
            flagged_mean=_mean(values[chosen & (marks == 1)]),
            unflagged_mean=_mean(values[chosen & (marks == 0)]),
        )


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
