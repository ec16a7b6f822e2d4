"""The straight line between two networks as lists over α, as files hold it. α = 0 is the first, α = 1 the second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.paths.barriers import Barriers, all_barriers, with_points
from modeconn_cli.engine.paths.evaluate import Measurement

FLOAT32 = 1e-6  # how far equally spaced positions are off that were computed in float32
SERIES = ("loss_train", "error_train", "loss_test", "error_test")
Array = npt.NDArray[np.float64]


def alphas(count: int) -> list[float]:
    """Equally spaced positions that contain 0, ½ and 1. Raises SettingsError for an even count."""
    if count % 2 == 0:
        raise SettingsError(f"--num-alphas {count} is even and leaves out the middle", "use an odd number")
    return [k / (count - 1) for k in range(count)]


@dataclass(frozen=True)
class Line:
    """What was measured at the positions, each [T]: losses are means in nats, accuracies shares of 1."""

    alphas: Array
    losses_train: Array
    accuracy_lst_train: Array
    losses_test: Array
    accuracy_lst_test: Array

    @classmethod
    def measured(cls, found: Sequence[Measurement]) -> Line:
        """The line of what was measured, in its order."""
        rows = [(m.t, m.tr_nll, m.tr_acc / 100, m.te_nll, m.te_acc / 100) for m in found]
        return cls(*np.array(rows).T)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Line:
        """The line in a pair's JSON document; null is NaN. Raises KeyError, TypeError or ValueError for others."""
        lists = {
            name: np.array([math.nan if value is None else float(value) for value in document[name]])
            for name in cls.__dataclass_fields__
        }
        if len({len(values) for values in lists.values()}) != 1 or len(lists["alphas"]) < 2:
            raise ValueError("its lists differ in length")
        for name in ("accuracy_lst_train", "accuracy_lst_test"):
            if ((lists[name] < 0) | (lists[name] > 1 + FLOAT32)).any():
                raise ValueError(f"{name} holds values that are not shares from 0 to 1")
        return cls(**lists)

    def lists(self) -> dict[str, list[float]]:
        """The lists by the names that files have for them."""
        return {name: values.tolist() for name, values in vars(self).items()}

    def _rows(self, rows: npt.NDArray[np.int64] | slice) -> Line:
        return Line(*(values[rows] for values in vars(self).values()))

    def only(self, wanted: Sequence[float]) -> Line | None:
        """The line at some of its positions, ascending; None where one of them is missing."""
        if not np.isin(wanted, self.alphas).all():
            return None
        return self._rows(np.searchsorted(self.alphas, wanted))

    def joined(self, other: Line) -> Line:
        """The positions of both."""
        both = Line(
            *(np.append(a, b) for a, b in zip(vars(self).values(), vars(other).values(), strict=True))
        )
        return both._rows(np.argsort(both.alphas, kind="stable"))

    def flipped(self) -> Line:
        """The line walked from its other end. Positions that float32 has rounded are made exact again."""
        turned, steps = self._rows(slice(None, None, -1)), len(self.alphas) - 1
        there = 1 - turned.alphas
        exact = np.round(there * steps) / steps
        return replace(turned, alphas=exact if (abs(there - exact) < FLOAT32).all() else there)

    def series(self) -> dict[str, Array]:
        """Losses in nats and errors in percent, each [T]."""
        return {
            "loss_train": self.losses_train,
            "error_train": 100 - 100 * self.accuracy_lst_train,
            "loss_test": self.losses_test,
            "error_test": 100 - 100 * self.accuracy_lst_test,
        }

    def barriers(self) -> Barriers:
        """The barriers of its series: losses in nats, errors in percentage points."""
        return all_barriers(self.alphas, self.series())


def with_lists(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A record's entries with its line's lists in the line's place, and barriers of errors under their unit too."""
    out: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "barriers":
            value = with_points(value)
        out |= value.lists() if isinstance(value, Line) else {name: value}
    return out
