"""How fast work goes. Torch-free."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class Pace:
    """How fast a stretch of work goes since `begun` of its `total` were done at `since`, in seconds."""

    since: float
    begun: int
    total: int
    done: int
    now: float

    def goes_on(self, done: int, total: int) -> bool:
        """Whether a report is of the same stretch."""
        return total == self.total and done >= self.done

    def rate(self) -> float | None:
        """Units per second; None where that cannot be said yet."""
        return (self.done - self.begun) / (self.now - self.since) if self.now > self.since else None

    def left(self) -> float | None:
        """The seconds to the end; None where that cannot be said yet, or is over."""
        if not self.begun < self.done < self.total:
            return None
        return (self.now - self.since) / (self.done - self.begun) * (self.total - self.done)


class Paces:
    """How far a job is, by unit: of the units that it counts in, steps are the finest."""

    def __init__(self) -> None:
        self._of: dict[str, Pace] = {}

    def see(self, done: int, total: int, unit: str) -> None:
        """Take note of a report."""
        now, pace = time.monotonic(), self._of.pop(unit, None)
        if pace is None or not pace.goes_on(done, total):
            pace = Pace(now, done, total, done, now)
        pace.done, pace.now = done, now
        self._of[unit] = pace

    def latest(self) -> tuple[str, Pace] | None:
        """The finest unit, or that of the last report, with its pace; None before the first."""
        unit = "step" if "step" in self._of else next(reversed(self._of), None)
        return None if unit is None else (unit, self._of[unit])
