"""Dormancy over the epochs of a folder, of all samples and of flagged against unflagged ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeconn_cli.engine.correlate import sources
from modeconn_cli.engine.correlate.sources import Source
from modeconn_cli.engine.quantiles import statistics

METRICS = ("dormant_prop", "dormant_post")


@dataclass(frozen=True)
class Epoch:
    """One metric at one epoch over samples with a finite value; None where there is none."""

    epoch: int
    metric: str
    samples: int
    statistics: dict[str, float | None]
    flagged_mean: float | None
    unflagged_mean: float | None


def follow(paths: Mapping[int, Path], assume: bool, flag: Source | None) -> list[Epoch]:
    """Statistics of every epoch, one epoch in memory at a time; the first column of `flag` tells samples apart."""
    out = []
    for epoch, path in paths.items():
        source = sources.in_order(sources.dormant(epoch, path, assume))
        for metric in METRICS:
            if metric in source.metrics:
                out.append(_epoch(epoch, metric, source, flag))
    return out


def _epoch(epoch: int, metric: str, source: Source, flag: Source | None) -> Epoch:
    values = source.metrics[metric].astype(np.float64)
    finite = np.isfinite(values)
    flagged = unflagged = None
    if flag is not None:
        known = next(iter(flag.flags.values()))
        marks = np.full(len(values), np.nan)
        place = np.searchsorted(flag.ids, source.ids)
        inside = place < len(flag.ids)
        inside[inside] = flag.ids[place[inside]] == source.ids[inside]
        marks[inside] = known[place[inside]]
        flagged, unflagged = _mean(values[finite & (marks == 1)]), _mean(values[finite & (marks == 0)])
    return Epoch(
        epoch=epoch,
        metric=metric,
        samples=int(finite.sum()),
        statistics=statistics(values),
        flagged_mean=flagged,
        unflagged_mean=unflagged,
    )


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
