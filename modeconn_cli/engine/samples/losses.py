"""Cumulative sample loss and learning time, streamed over epochs: memory O(N), sums in float64.

Definitions, for E kept epochs and N samples:
csl_i = Σ_e loss_e,i.
cond_k,i = (1/k) Σ_{j≤k} g_j,i, the running mean of the gradient norms; τ = mean of cond over epochs and finite samples;
lt_i = 1 − mean_k [cond_k,i < τ].
lt_first_epoch_i: the first kept epoch with cond ≤ τ, NaN if there is none. The paper (Ravikumar et al. 2025) squares
the norms: lt_first_epoch_sq, with the τ of the squares. Before training gradients may be small, and then it is the
first epoch for all samples; lt_stays_i: the first kept epoch from which on cond stays ≤ τ, NaN if there is none.
Of classes that are added task by task, both begin at the first epoch a sample is scored at: its sums, means and k are
over the epochs from there on, and τ is the mean of all cond there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Vectors = Callable[[], Iterable[np.ndarray]]  # a fresh pass over the epochs, each [N]

BLOCK = 1 << 15  # samples treated at a time: the work of a block stays in the cache


@dataclass(frozen=True)
class LearningTime:
    """`lt`, `first` and `stays` float64 [N]; `tau` over `finite` samples, the others are NaN."""

    tau: float
    lt: np.ndarray
    first: np.ndarray
    stays: np.ndarray
    finite: int


def cumulative_loss(
    losses: Iterable[np.ndarray], count: int, *, skip_unseen: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """csl [N] in float64 and the number of epochs [N] that each sample was scored at.

    NaN stays NaN; with `skip_unseen` NaNs before the first finite loss are epochs at which the class had not been
    seen, and are left out.

    >>> cumulative_loss([np.array([1.0, 2.0]), np.array([0.5, 1.0])], 2)[0].tolist()
    [1.5, 3.0]
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
    norms: Vectors, epochs: Sequence[int], count: int, *, squared: bool = False, skip_unseen: bool = False
) -> LearningTime:
    """Two passes over the norms: τ first, then the comparison with it. `skip_unseen` as in `cumulative_loss`."""
    means = np.zeros(count)  # Σ_k cond_k of each sample
    unseen = np.zeros(count if skip_unseen else 1, dtype=np.int32)  # epochs before its first
    for k, condition, block in _conditions(norms, count, squared, unseen if skip_unseen else None):
        if skip_unseen:
            condition[unseen[block] > k] = 0.0
        means[block] += condition
    finite = np.isfinite(means) & (unseen < len(epochs))
    seen = np.broadcast_to(len(epochs) - unseen, count)
    tau = float(means[finite].sum() / seen[finite].sum()) if finite.any() else float("nan")
    below, hits = np.zeros(count, dtype=np.int32), np.empty(min(BLOCK, count), dtype=bool)
    first, waiting, stays = np.full(count, np.nan), np.ones(count, dtype=bool), np.full(count, np.nan)
    for k, condition, block in _conditions(norms, count, squared, unseen if skip_unseen else None):
        below[block] += np.less(condition, tau, out=hits[: len(condition)])
        under, since = condition <= tau, stays[block]
        since[~under] = np.nan
        since[under & np.isnan(since)] = epochs[k]
        still = waiting[block]
        if still.any():
            reached = under & still
            first[block][reached] = epochs[k]
            still[reached] = False
    lt = 1.0 - below / np.maximum(seen, 1)
    lt[~finite] = first[~finite] = stays[~finite] = np.nan
    return LearningTime(tau, lt, first, stays, int(finite.sum()))


def _conditions(
    norms: Vectors, count: int, squared: bool, unseen: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray, slice]]:
    """(epoch number from 0, cond of a block of samples, the block); cond is gone when the next one comes.

    `unseen` [N] takes the number of leading NaNs of each sample, whose cond is NaN and which its k leaves out.
    """
    if unseen is not None:
        unseen[:] = 0
    sums, room = np.zeros(count), np.empty(min(BLOCK, count))
    for k, values in enumerate(norms()):
        for block in _blocks(count):
            total, condition = sums[block], room[: block.stop - block.start]
            part = values[block]
            if squared:
                part = np.square(part, out=condition, dtype=np.float64)
            total += part
            if unseen is None:
                yield k, np.divide(total, k + 1, out=condition), block
                continue
            absent = np.isnan(part) & (unseen[block] == k)
            unseen[block] += absent
            total[absent] = 0.0
            np.divide(total, k + 1 - unseen[block], out=condition, where=~absent)
            condition[absent] = np.nan
            yield k, condition, block


def _blocks(count: int) -> list[slice]:
    return [slice(begin, min(begin + BLOCK, count)) for begin in range(0, count, BLOCK)]
