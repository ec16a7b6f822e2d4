"""Memorisation and influence from who was trained on what, and who was right.

mem(i) = P(right on i | trained on i) - P(right on i | not), and the influence of i on a held-out image j is the same
difference of the answers to j. Each probability is the share of the networks: kᵢₙ of nᵢₙ, kₒᵤₜ of nₒᵤₜ. The standard
error is √(p₁(1-p₁)/nᵢₙ + p₀(1-p₀)/nₒᵤₜ) with p = (k + 1)/(n + 2), so that it is not zero where all were right.
Feldman and Zhang 2020, arXiv:2008.03703.

Shapes: T networks, N training images, H held-out images. Counts are sums of zeros and ones in float32, exact below 2²⁴.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 24  # entries of the matrix of influences that are held at a time


@dataclass(frozen=True)
class Estimate:
    """How the share of right answers differs between the networks that were trained on an image and the others.

    All of one shape; `value` is NaN where an image is in all or in none of the sets that networks were trained on.
    """

    value: np.ndarray
    error: np.ndarray
    right_in: np.ndarray
    right_out: np.ndarray


def difference(right_in: np.ndarray, n_in: np.ndarray, right_out: np.ndarray, n_out: np.ndarray) -> Estimate:
    """The estimate of counts that broadcast against each other, float64."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = right_in / n_in.astype(float) - right_out / n_out.astype(float)
        error = np.sqrt(_variance(right_in, n_in) + _variance(right_out, n_out))
    error = np.where(np.isnan(value), np.nan, error)
    return Estimate(value, error, right_in, right_out)


def _variance(right: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Of a share whose probability is estimated as (k + 1)/(n + 2)."""
    p = (right + 1.0) / (count + 2.0)
    return np.asarray(p * (1 - p) / count)


def memorisation(trained: np.ndarray, right: np.ndarray) -> Estimate:
    """mem of every training image, [N]: `trained` bool [T, N] says who was trained on it, `right` who answers it so.

    >>> trained = np.array([[True, False], [False, True], [True, True], [False, False]])
    >>> memorisation(trained, trained).value.tolist(), memorisation(trained, ~trained & False).value.tolist()
    ([1.0, 1.0], [0.0, 0.0])
    """
    n_in = trained.sum(0)
    return difference((trained & right).sum(0), n_in, (~trained & right).sum(0), len(trained) - n_in)


@dataclass(frozen=True)
class Influences:
    """Pairs of a training and a held-out image by their rows, [K] each, in the order of the rows."""

    of: np.ndarray
    on: np.ndarray
    value: np.ndarray
    error: np.ndarray


def influences(trained: np.ndarray, right: np.ndarray, threshold: float) -> Iterator[Influences]:
    """The influences above a threshold, some rows of `trained` bool [T, N] at a time; `right` bool [T, H]."""
    n_in, answers = trained.sum(0), right.astype(np.float32)
    rows = max(1, BLOCK // max(right.shape[1], 1))
    for begin in range(0, trained.shape[1], rows):
        own = slice(begin, begin + rows)
        right_in = (trained[:, own].T.astype(np.float32) @ answers).astype(np.int64)
        inside = n_in[own, None]
        found = difference(right_in, inside, right.sum(0) - right_in, len(trained) - inside)
        of, on = np.nonzero(found.value > threshold)
        yield Influences(begin + of, on, found.value[of, on], found.error[of, on])
