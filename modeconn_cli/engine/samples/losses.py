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


@dataclass(frozen=True)
class Learnt:
    """What two passes over gradient norms tell: `total` [N] their sums and `epochs` [N] over how many, as
    `cumulative_loss` gives them of losses, and the learning times by the norms and, where asked for, by their squares,
    whose sums are `squares` [N] then.
    """

    total: np.ndarray
    epochs: np.ndarray
    plain: LearningTime
    squared: LearningTime | None
    squares: np.ndarray | None


def learning_time(
    norms: Vectors, epochs: Sequence[int], count: int, *, squares: bool = False, skip_unseen: bool = False
) -> Learnt:
    """Two passes over the norms: τ first, then the comparison with it; both for the norms and, with `squares`, theirs.

    `skip_unseen` as in `cumulative_loss`.
    """
    powers = [_Running(count, squared) for squared in ((False, True) if squares else (False,))]
    unseen = np.zeros(count if skip_unseen else 1, dtype=np.int32)  # epochs before its first
    leading = unseen if skip_unseen else None
    for power, k, condition, block in _conditions(norms, count, powers, leading):
        if skip_unseen:
            condition[unseen[block] > k] = 0.0
        power.means[block] += condition
    seen = np.broadcast_to(len(epochs) - unseen, count)
    total = powers[0].sums.copy()
    total[seen == 0] = np.nan
    for power in powers:
        power.settle(seen)
    hits = np.empty(min(BLOCK, count), dtype=bool)
    for power, k, condition, block in _conditions(norms, count, powers, leading):
        power.compare(condition, block, epochs[k], hits)
    times = [power.time(seen) for power in powers]
    of_squares = np.where(seen == 0, np.nan, powers[1].sums) if squares else None
    return Learnt(total, seen.astype(np.int64), times[0], times[1] if squares else None, of_squares)


class _Running:
    """What the passes keep of the norms or of their squares, per sample."""

    def __init__(self, count: int, squared: bool) -> None:
        self.squared, self.sums = squared, np.zeros(count)
        self.means = np.zeros(count)  # Σ_k cond_k
        self._below = np.zeros(count, dtype=np.int32)
        self._first, self._stays = np.full(count, np.nan), np.full(count, np.nan)
        self._waiting = np.ones(count, dtype=bool)

    def settle(self, seen: np.ndarray) -> None:
        """τ, after the first pass."""
        self._finite = finite = np.isfinite(self.means) & (seen > 0)
        self._tau = float(self.means[finite].sum() / seen[finite].sum()) if finite.any() else float("nan")

    def compare(self, condition: np.ndarray, block: slice, epoch: int, hits: np.ndarray) -> None:
        """In the second pass; `hits` is room."""
        tau = self._tau
        self._below[block] += np.less(condition, tau, out=hits[: len(condition)])
        under, since = condition <= tau, self._stays[block]
        since[~under] = np.nan
        since[under & np.isnan(since)] = epoch
        still = self._waiting[block]
        if still.any():
            reached = under & still
            self._first[block][reached] = epoch
            still[reached] = False

    def time(self, seen: np.ndarray) -> LearningTime:
        lt, first, stays, finite = (
            1.0 - self._below / np.maximum(seen, 1),
            self._first,
            self._stays,
            self._finite,
        )
        lt[~finite] = first[~finite] = stays[~finite] = np.nan
        return LearningTime(self._tau, lt, first, stays, int(finite.sum()))


def _conditions(
    norms: Vectors, count: int, powers: Sequence[_Running], unseen: np.ndarray | None
) -> Iterator[tuple[_Running, int, np.ndarray, slice]]:
    """(whose, epoch number from 0, cond of a block of samples, the block), one pass; cond is gone when the next comes.

    `unseen` [N] takes the number of leading NaNs of each sample, whose cond is NaN and which its k leaves out.
    """
    for power in powers:
        power.sums[:] = 0.0
    if unseen is not None:
        unseen[:] = 0
    room = np.empty(min(BLOCK, count))
    for k, values in enumerate(norms()):
        for block in _blocks(count):
            part, condition = values[block], room[: block.stop - block.start]
            absent = None
            if unseen is not None:
                absent = np.isnan(part) & (unseen[block] == k)
                unseen[block] += absent
            for power in powers:
                total = power.sums[block]
                total += np.square(part, out=condition, dtype=np.float64) if power.squared else part
                if absent is None or unseen is None:
                    yield power, k, np.divide(total, k + 1, out=condition), block
                    continue
                total[absent] = 0.0
                np.divide(total, k + 1 - unseen[block], out=condition, where=~absent)
                condition[absent] = np.nan
                yield power, k, condition, block


def _blocks(count: int) -> list[slice]:
    return [slice(begin, min(begin + BLOCK, count)) for begin in range(0, count, BLOCK)]
