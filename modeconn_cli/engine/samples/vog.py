"""Variance of gradients: how much the gradient of a sample's label logit by its input moves over checkpoints.

VoG_i is the mean over input elements of the standard deviation (ddof 0) over checkpoints of ∂z_y/∂x, y the label that
was scored (Agarwal et al. 2022, arXiv:2008.11600, who standardise it within classes afterwards).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modeconn_cli.engine.results import arrays, files

BLOCK = 1 << 22  # elements treated at a time


class Moments:
    """Mean and sum of squared deviations of an array per sample over epochs, float32 [N, …], in one file.

    Two copies of the data, however many epochs there are (Welford 1962). An epoch that was taken up is not taken up
    again: after a kill it may come a second time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, epoch: int, values: np.ndarray) -> None:
        """Take up an epoch's values, float32 [N, …]; a sample whose are NaN has none."""
        known = arrays.read_npz(self._path) if self._path.exists() else {}
        epochs = known.get("epochs", np.zeros(0, dtype=np.int64))
        if epoch in epochs:
            return
        count = known.get("count", np.zeros(len(values), dtype=np.int32))
        mean, squares = (known.get(name, np.zeros_like(values)) for name in ("mean", "squares"))
        for rows in _blocks(values):
            there = ~np.isnan(values[rows].reshape(len(values[rows]), -1)).all(1)
            count[rows] += there
            number = np.maximum(count[rows], 1).reshape(-1, *[1] * (values.ndim - 1))
            kept = there.reshape(number.shape)
            off = np.where(kept, values[rows].astype(np.float64) - mean[rows], 0.0)
            new = mean[rows] + off / number
            squares[rows] += off * np.where(kept, values[rows] - new, 0.0)
            mean[rows] = new
        known = {"epochs": np.append(epochs, epoch), "count": count, "mean": mean, "squares": squares}
        files.write_arrays(self._path, known)

    def epochs(self) -> list[int]:
        """Those that were taken up, ascending."""
        found: list[int] = sorted(arrays.read_npz(self._path)["epochs"].tolist())
        return found

    def deviation(self) -> np.ndarray:
        """The mean over elements of the standard deviation over epochs, float64 [N]; NaN of a sample without any."""
        known = arrays.read_npz(self._path)
        count, squares = known["count"], known["squares"]
        found = np.full(len(count), np.nan)
        for rows in _blocks(squares):
            flat = squares[rows].reshape(len(squares[rows]), -1).astype(np.float64)
            found[rows] = np.sqrt(flat / np.maximum(count[rows], 1)[:, None]).mean(1)
        return np.where(count == 0, np.nan, found)


def _blocks(values: np.ndarray) -> Iterator[slice]:
    size = max(1, BLOCK // max(1, int(np.prod(values.shape[1:]))))
    for begin in range(0, len(values), size):
        yield slice(begin, min(begin + size, len(values)))


def within_classes(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Values [N] standardised within the samples of their class; 0 where these are all alike, NaN stays.

    >>> within_classes(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 1])).tolist()
    [-1.0, 1.0, 0.0]
    """
    found = np.full(len(values), np.nan)
    for label in np.unique(labels):
        of_class = (labels == label) & np.isfinite(values)
        own = values[of_class]
        if len(own):
            found[of_class] = (own - own.mean()) / (own.std() or 1.0)
    return found
