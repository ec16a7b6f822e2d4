"""The figures of a straight line between two networks. α = 0 is the first, α = 1 the second."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.paths.barriers import all_barriers
from modeconn_cli.engine.paths.evaluate import Row

FLOAT32 = 1e-6  # how far equally spaced positions are off that were computed in float32
LISTS = ("losses_train", "accuracy_lst_train", "losses_test", "accuracy_lst_test")
SERIES = ("loss_train", "error_train", "loss_test", "error_test")


def alphas(count: int) -> list[float]:
    """Equally spaced positions that contain 0, ½ and 1. Raises SettingsError for an even count."""
    if count % 2 == 0:
        raise SettingsError(f"--num-alphas {count} is even and leaves out the middle", "use an odd number")
    return [k / (count - 1) for k in range(count)]


@dataclass(frozen=True)
class Line:
    """Lists over α: losses are means of cross-entropy in nats, accuracies shares of 1."""

    alphas: list[float]
    losses_train: list[float]
    accuracy_lst_train: list[float]
    losses_test: list[float]
    accuracy_lst_test: list[float]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Line:
        """The line of evaluated positions, in their order."""
        rows = list(rows)
        return cls(
            alphas=[row["t"] for row in rows],
            losses_train=[row["tr_nll"] for row in rows],
            accuracy_lst_train=[row["tr_acc"] / 100 for row in rows],
            losses_test=[row["te_nll"] for row in rows],
            accuracy_lst_test=[row["te_acc"] / 100 for row in rows],
        )

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Line:
        """The line in a pair's JSON document; null is NaN. Raises KeyError, TypeError or ValueError for others."""
        lists = {
            name: [math.nan if value is None else float(value) for value in document[name]]
            for name in ("alphas", *LISTS)
        }
        if len({len(values) for values in lists.values()}) != 1 or len(lists["alphas"]) < 2:
            raise ValueError("its lists differ in length")
        return cls(**lists)

    def at(self, wanted: Sequence[float]) -> Line | None:
        """The line at some of its positions; None where one of them is missing."""
        if not set(wanted) <= set(self.alphas):
            return None
        places = [self.alphas.index(alpha) for alpha in wanted]
        return Line(list(wanted), *([getattr(self, name)[k] for k in places] for name in LISTS))

    def joined(self, other: Line) -> Line:
        """The positions of both."""
        order = np.argsort([*self.alphas, *other.alphas], kind="stable").tolist()
        both = {name: [*getattr(self, name), *getattr(other, name)] for name in ("alphas", *LISTS)}
        return Line(**{name: [values[k] for k in order] for name, values in both.items()})

    def flipped(self) -> Line:
        """The line walked from its other end. Positions that float32 has rounded are made exact again."""
        steps = len(self.alphas) - 1
        there = [1 - alpha for alpha in reversed(self.alphas)]
        exact = [round(alpha * steps) / steps for alpha in there]
        near = all(abs(a - b) < FLOAT32 for a, b in zip(there, exact, strict=True))
        lists = {name: getattr(self, name)[::-1] for name in LISTS}
        return Line(exact if near else there, **lists)

    def series(self) -> dict[str, np.ndarray]:
        """Losses in nats and errors in percent, each [T]."""
        return {
            "loss_train": np.array(self.losses_train),
            "error_train": 100 - 100 * np.array(self.accuracy_lst_train),
            "loss_test": np.array(self.losses_test),
            "error_test": 100 - 100 * np.array(self.accuracy_lst_test),
        }

    def barriers(self) -> dict[str, dict[str, float | None]]:
        """definition -> series -> barrier: losses in nats, errors in percentage points."""
        return all_barriers(np.array(self.alphas), self.series())
