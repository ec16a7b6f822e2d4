"""Means and standard deviations of groups of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Groups:
    """G groups of samples: the values that make them [G] per key, their sizes [G], and per metric mean, sd, n [G]."""

    keys: dict[str, np.ndarray]
    sizes: np.ndarray
    statistics: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def grouped(columns: Mapping[str, np.ndarray], keys: Sequence[str], metrics: Sequence[str]) -> Groups:
    """The samples with all `keys`, grouped by them; statistics over finite values, sd with ddof 1."""
    known = ~np.any([np.isnan(columns[key]) for key in keys], axis=0)
    values = np.stack([columns[key][known] for key in keys], axis=1)
    distinct, code = (
        np.unique(values, axis=0, return_inverse=True) if len(keys) > 1 else _distinct(values[:, 0])
    )
    code = code.reshape(-1)
    return Groups(
        {key: distinct[:, i] for i, key in enumerate(keys)},
        np.bincount(code, minlength=len(distinct)),
        {name: _statistics(columns[name][known], code, len(distinct)) for name in metrics},
    )


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # A fifth of the time of np.unique along an axis.
    distinct, code = np.unique(values, return_inverse=True)
    return distinct[:, None], code


def _statistics(
    values: np.ndarray, code: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    finite = np.isfinite(values)
    values, code = values[finite].astype(np.float64), code[finite]
    n = np.bincount(code, minlength=count)
    # A power of two, which changes no digit: squares of the largest numbers would overflow.
    power = int(np.frexp(np.abs(values).max(initial=1.0))[1])
    values = np.ldexp(values, -power)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.bincount(code, values, minlength=count) / n
        squares = np.bincount(code, (values - mean[code]) ** 2, minlength=count)
        sd = np.where(n > 1, np.sqrt(squares / (n - 1)), np.nan)
        return np.ldexp(mean, power), np.ldexp(sd, power), n
