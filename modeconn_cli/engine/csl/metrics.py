"""Cumulative sample loss and learning time, streamed over epochs: memory O(N), sums in float64.

Definitions, for E kept epochs and N samples:
csl_i = Σ_e loss_e,i.
cond_k,i = (1/k) Σ_{j≤k} g_j,i, the running mean of the gradient norms; τ = mean of cond over epochs and finite samples;
lt_i = 1 − mean_k [cond_k,i < τ].
lt_first_epoch_i: the first kept epoch with cond ≤ τ, NaN if there is none. The paper (Ravikumar et al. 2025) squares
the norms: lt_first_epoch_sq, with the τ of the squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

Vectors = Callable[[], Iterable[np.ndarray]]  # a fresh pass over the epochs, each [N]

BLOCK = 1 << 15  # samples treated at a time: the work of a block stays in the cache


@dataclass(frozen=True)
class LearningTime:
    """`lt` and `first` float64 [N]; `tau` over `finite` samples, the others are NaN."""

    tau: float
    lt: np.ndarray
    first: np.ndarray
    finite: int


def cumulative_loss(
    losses: Iterable[np.ndarray], count: int, *, skip_unseen: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """csl [N] in float64 and the number of epochs [N] that each sample was scored at.

    NaN stays NaN; with `skip_unseen` NaNs before the first finite loss are epochs at which the class had not been
    seen, and are left out.
    """
    total, epochs = np.zeros(count), np.zeros(count, dtype=np.int64)
    scored = 0
    for values in losses:
        for block in _blocks(count):
            if skip_unseen:
                part = values[block].astype(np.float64)
                unseen = np.isnan(part) & (epochs[block] == 0)
                part[unseen] = 0.0
                epochs[block] += ~unseen
                total[block] += part
            else:
                total[block] += values[block]
        scored += 1
    if not skip_unseen:
        epochs[:] = scored
    else:
        total[epochs == 0] = np.nan
    return total, epochs


def learning_time(
    norms: Vectors, epochs: Sequence[int], count: int, *, squared: bool = False
) -> LearningTime:
    """Two passes over the norms: τ first, then the comparison with it."""
    means = np.zeros(count)  # Σ_k cond_k of each sample
    for _, condition, block in _conditions(norms, count, squared):
        means[block] += condition
    finite = np.isfinite(means)
    tau = float(means[finite].mean() / len(epochs)) if finite.any() else float("nan")
    below, hits = np.zeros(count, dtype=np.int32), np.empty(min(BLOCK, count), dtype=bool)
    first, waiting = np.full(count, np.nan), np.ones(count, dtype=bool)
    for k, condition, block in _conditions(norms, count, squared):
        below[block] += np.less(condition, tau, out=hits[: len(condition)])
        still = waiting[block]
        if still.any():
            reached = (condition <= tau) & still
            first[block][reached] = epochs[k]
            still[reached] = False
    lt = 1.0 - below / len(epochs)
    lt[~finite] = first[~finite] = np.nan
    return LearningTime(tau, lt, first, int(finite.sum()))


def _conditions(norms: Vectors, count: int, squared: bool) -> Iterator[tuple[int, np.ndarray, slice]]:
    """(epoch number from 0, cond of a block of samples, the block); cond is gone when the next one comes."""
    sums, room = np.zeros(count), np.empty(min(BLOCK, count))
    for k, values in enumerate(norms()):
        for block in _blocks(count):
            total, condition = sums[block], room[: block.stop - block.start]
            if squared:
                np.square(values[block], out=condition, dtype=np.float64)
                total += condition
            else:
                total += values[block]
            yield k, np.divide(total, k + 1, out=condition), block


def _blocks(count: int) -> list[slice]:
    return [slice(begin, min(begin + BLOCK, count)) for begin in range(0, count, BLOCK)]


def auroc(values: np.ndarray, positive: np.ndarray) -> float | None:
    """The chance that a positive sample has the larger value, ties half; None where one side is empty.

    NaN values are left out. Source: Mann and Whitney 1947, by mean ranks.
    """
    keep = ~np.isnan(values)
    values, positive = values[keep], positive[keep].astype(bool)
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return None
    ranks = rankdata(values)
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))
