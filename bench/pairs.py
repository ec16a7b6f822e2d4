"""Ours and a reference in strict alternation, so that whatever else the machine does meets both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LEAST = 5  # pairs that are taken whatever they cost


class Seconds(float):
    """What a callable says it took, where that is not the time until it returns."""


@dataclass(frozen=True)
class Pair:
    """What is timed. Without a reference the limit is in seconds. `facts` are counts, printed below the table."""

    ours: Callable[[], object]
    reference: Callable[[], object] | None = None
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A line of the table; `prepare` is given an empty folder."""

    name: str
    limit: float
    prepare: Callable[[Path], Pair]


@dataclass(frozen=True)
class Result:
    """Seconds of every run, in the order of the pairs."""

    name: str
    limit: float
    ours: list[float]
    reference: list[float]
    facts: tuple[str, ...] = ()

    @property
    def figures(self) -> list[float]:
        """What the limit is for: the ratio of each pair, or our seconds where there is no reference."""
        if not self.reference:
            return self.ours
        return [a / b for a, b in zip(self.ours, self.reference, strict=True)]

    @property
    def median(self) -> float:
        return float(np.median(self.figures))

    @property
    def spread(self) -> tuple[float, float]:
        """The 10 and 90 % quantiles of the figures."""
        low, high = np.quantile(self.figures, (0.1, 0.9))
        return float(low), float(high)

    @property
    def within(self) -> bool:
        return self.median <= self.limit


def measure(case: Case, folder: Path, pairs: int, seconds: float) -> Result:
    """Take up to `pairs` pairs; after `seconds` no more than LEAST. One run of each before is not counted."""
    pair = case.prepare(folder)
    turns: dict[str, Callable[[], object]] = {"ours": pair.ours}
    if pair.reference is not None:
        turns["reference"] = pair.reference
    times: dict[str, list[float]] = {"ours": [], "reference": []}
    for run in turns.values():
        run()
    begun = time.perf_counter()
    for number in range(pairs):
        for name in list(turns)[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            said = turns[name]()
            spent = time.perf_counter() - start
            times[name].append(said if isinstance(said, Seconds) else spent)
        if number + 1 >= LEAST and time.perf_counter() - begun > seconds:
            break
    return Result(case.name, case.limit, times["ours"], times["reference"], pair.facts)
