"""What is kept of one value per sample and epoch: each fold takes the epochs one after the other, in float64.

`seen` is bool [N]: False for a sample at the epochs before its class was seen, where its value is NaN and is left out.
Any other NaN stays: a sum, mean or count with one in it is NaN, and so is that of a sample that was never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np


class Fold(Protocol):
    """The memory of a score over epochs."""

    def add(self, epoch: int, values: np.ndarray, seen: np.ndarray) -> None:
        """Take up the values [N] of an epoch; epochs ascend."""

    def result(self) -> np.ndarray:
        """The score, float64 [N]."""


class Total:
    """The sum over epochs."""

    def __init__(self, count: int) -> None:
        self._total, self._epochs = np.zeros(count), np.zeros(count, dtype=np.int32)

    def add(self, epoch: int, values: np.ndarray, seen: np.ndarray) -> None:  # noqa: ARG002
        self._total += np.where(seen, values, 0.0)
        self._epochs += seen

    def result(self) -> np.ndarray:
        return np.where(self._epochs == 0, np.nan, self._total)


class Mean(Total):
    """The mean over epochs."""

    def result(self) -> np.ndarray:
        found: np.ndarray = super().result() / np.maximum(self._epochs, 1)
        return found


class Least:
    """The smallest value."""

    def __init__(self, count: int) -> None:
        self._least, self._seen = np.full(count, np.inf), np.zeros(count, dtype=bool)

    def add(self, epoch: int, values: np.ndarray, seen: np.ndarray) -> None:  # noqa: ARG002
        np.minimum(self._least, np.where(seen, values, np.inf), out=self._least)
        self._seen |= seen

    def result(self) -> np.ndarray:
        return np.where(self._seen, self._least, np.nan)


class Last:
    """The value at the last epoch."""

    def __init__(self, count: int) -> None:
        self._last = np.full(count, np.nan)

    def add(self, epoch: int, values: np.ndarray, seen: np.ndarray) -> None:  # noqa: ARG002
        self._last[:] = values

    def result(self) -> np.ndarray:
        return self._last


def at(wanted: int) -> Callable[[int], Fold]:
    """The fold that keeps the value at one epoch."""

    class At(Last):
        def add(self, epoch: int, values: np.ndarray, seen: np.ndarray) -> None:
            if epoch == wanted:
                super().add(epoch, values, seen)

    return At


class Deviation:
    """The standard deviation over epochs, of all of them (ddof 0); Welford 1962, so that nothing cancels."""

    def __init__(self, count: int) -> None:
        self._mean, self._squares = np.zeros(count), np.zeros(count)
        self._epochs = np.zeros(count, dtype=np.int32)

    def add(self, epoch: int, values: np.ndarray, seen: np.ndarray) -> None:  # noqa: ARG002
        self._epochs += seen
        off = np.where(seen, values - self._mean, 0.0)
        self._mean += off / np.maximum(self._epochs, 1)
        self._squares += off * np.where(seen, values - self._mean, 0.0)

    def result(self) -> np.ndarray:
        found: np.ndarray = np.sqrt(self._squares / np.maximum(self._epochs, 1))
        return np.where(self._epochs == 0, np.nan, found)


class Forgotten:
    """How often 1 is followed by 0 at the next epoch; ∞ for a sample that is never 1."""

    def __init__(self, count: int) -> None:
        self._events, self._before, self._ever = np.zeros((3, count))
        self._seen = np.zeros(count, dtype=bool)

    def add(self, epoch: int, values: np.ndarray, seen: np.ndarray) -> None:  # noqa: ARG002
        values = np.where(seen, values, 0.0)
        self._events += self._before * (1.0 - values)  # NaN where either is
        self._before = values
        np.maximum(self._ever, values, out=self._ever)
        self._seen |= seen

    def result(self) -> np.ndarray:
        found = np.where(self._ever == 0, np.inf, self._events + 0.0 * self._ever)
        return np.where(self._seen, found, np.nan)


class First:
    """The first epoch at which the value is 1, by its number; ∞ where there is none, NaN where a NaN comes before."""

    def __init__(self, count: int) -> None:
        self._first, self._seen = np.full(count, np.inf), np.zeros(count, dtype=bool)

    def add(self, epoch: int, values: np.ndarray, seen: np.ndarray) -> None:
        waiting = seen & np.isposinf(self._first)
        self._first[waiting & (values == 1)] = epoch
        self._first[waiting & np.isnan(values)] = np.nan
        self._seen |= seen

    def result(self) -> np.ndarray:
        return np.where(self._seen, self._first, np.nan)


def forgotten_for_good(half: int) -> Callable[[int], Fold]:
    """The fold that takes whether a sample is correct (1) through two phases of `half` epochs each, and gives the first
    epoch of the second, from 1, from which on it is wrong to the end; ∞ where it is right in the end, NaN where it was
    not right at the end of the first phase.
    """

    class ForGood:
        def __init__(self, count: int) -> None:
            self._learnt, self._since = np.full(count, np.nan), np.full(count, np.inf)

        def add(self, epoch: int, values: np.ndarray, seen: np.ndarray) -> None:  # noqa: ARG002
            if epoch == half:
                self._learnt = values
            elif epoch > half:
                begins, known = (values == 0) & np.isposinf(self._since), ~np.isnan(self._since + values)
                self._since = np.where(begins, epoch - half, np.where(values == 1, np.inf, self._since))
                self._since[~known] = np.nan

        def result(self) -> np.ndarray:
            return np.where(self._learnt == 1, self._since, np.nan)

    return ForGood


def windows(length: int) -> Callable[[int], Fold]:
    """The fold that takes the mean, over all windows of so many consecutive epochs, of the standard deviation (ddof 0)
    in the window. It keeps the values of one window, in float32 as they are stored; NaN for a sample without a window.
    """

    class Windows(Mean):
        def __init__(self, count: int) -> None:
            super().__init__(count)
            self._ring = np.full((length, count), np.nan, dtype=np.float32)
            self._run, self._at = np.zeros(count, dtype=np.int32), 0

        def add(self, epoch: int, values: np.ndarray, seen: np.ndarray) -> None:
            self._ring[self._at % length] = values
            self._at, self._run = self._at + 1, self._run + seen
            if self._at >= length:
                super().add(epoch, self._ring.std(axis=0, dtype=np.float64), self._run >= length)

    return Windows
