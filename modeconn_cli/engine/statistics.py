"""What is said of a value per sample: mean, standard deviation and quantiles, and correlations with others.

scipy's statistics take a second to import: the functions that use them do it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NAMES = ("mean", "std", *(f"q{100 * q:g}" for q in QUANTILES))


def statistics(values: np.ndarray) -> dict[str, float | None]:
    """Mean, standard deviation and quantiles of the finite values [N]; None each where there are none."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return dict.fromkeys(NAMES)
    found = (finite.mean(), finite.std(), *np.quantile(finite, QUANTILES))
    return {name: float(value) for name, value in zip(NAMES, found, strict=True)}


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds: mean and standard deviation (ddof = 1); None with one seed or without a value."""

    mean: float | None
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread:
        known = [value for value in values if value is not None and math.isfinite(value)]
        if len(known) < len(values) or not known:
            return cls(None, None)
        return cls(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None)


@dataclass(frozen=True)
class Correlation:
    """A correlation over the `n` samples with finite values of both; None where a column is constant or n < 3.

    `low` and `high` bound 95 % intervals, from n = 4 on. `p` is two-sided, of one pair by itself; `p_holm` is that
    among all pairs of the table (Holm 1979). A chance that is too small for a float is the smallest one.
    """

    metric_a: str
    metric_b: str
    n: int
    pearson: float | None
    pearson_p: float | None
    spearman: float | None
    spearman_p: float | None
    pearson_low: float | None
    pearson_high: float | None
    pearson_p_holm: float | None
    spearman_low: float | None
    spearman_high: float | None
    spearman_p_holm: float | None


def correlations(columns: Mapping[str, np.ndarray]) -> list[Correlation]:
    """Every pair of columns [N]; p two-sided.

    Each column is ranked once for each set of samples that it shares with others, not once for each pair.
    """
    finite = {name: np.isfinite(values) for name, values in columns.items()}
    pairs_of = list(combinations(columns, 2))
    shared: dict[bytes, tuple[np.ndarray, list[tuple[str, str]]]] = {}
    for a, b in pairs_of:
        both = finite[a] & finite[b]
        shared.setdefault(np.packbits(both).tobytes(), (both, []))[1].append((a, b))
    found: dict[tuple[str, str], tuple[int, _Tested, _Tested]] = {}
    for both, pairs in shared.values():
        n = int(both.sum())
        units = {name: _units(columns[name][both].astype(np.float64)) for name in set(chain(*pairs))}
        for a, b in pairs:
            pearson, spearman = (_tested(x, y, n) for x, y in zip(units[a], units[b], strict=True))
            if spearman.p is not None:  # n samples have n! orders, and one agrees and one opposes entirely
                spearman = spearman._replace(p=min(1.0, max(spearman.p, 2 / math.factorial(min(n, 170)))))
            found[a, b] = n, pearson, spearman
    corrected = [holm([found[pair][kind].p for pair in pairs_of]) for kind in (1, 2)]  # type: ignore[union-attr]
    out = []
    for (a, b), own, ranked in zip(pairs_of, *corrected, strict=True):
        n, pearson, spearman = found[a, b]
        bounds = interval(pearson.r, n), interval(spearman.r, n, ranks=True)
        out.append(
            Correlation(
                a, b, n, pearson.r, pearson.p, spearman.r, spearman.p, *bounds[0], own, *bounds[1], ranked
            )
        )  # fmt: skip
    return out


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Each chance among all of a table: no error in any of them is likelier (Holm 1979). None stays None.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    order = sorted((p, k) for k, p in enumerate(chances) if p is not None)
    out: list[float | None] = [None] * len(chances)
    largest = 0.0
    for rank, (p, k) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        out[k] = largest
    return out


def interval(r: float | None, n: int, *, ranks: bool = False) -> tuple[float | None, float | None]:
    """The 95 % interval of a correlation by Fisher's z (of ranks with the variance of Bonett and Wright 2000).

    >>> [round(bound, 4) for bound in interval(0.5, 28)]
    [0.156, 0.7358]
    """
    if r is None or n < 4:
        return None, None
    if abs(r) > 1 - 1e-12:  # of few samples any order may be the same by chance
        return (None, None) if ranks else (r, r)
    width = 1.959963984540054 * np.sqrt((1 + r * r / 2 if ranks else 1.0) / (n - 3))
    return float(np.tanh(np.arctanh(r) - width)), float(np.tanh(np.arctanh(r) + width))


class _Tested(NamedTuple):
    r: float | None
    p: float | None


def _units(values: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    from scipy.stats import rankdata

    return _unit(values), _unit(rankdata(values))


def _unit(values: np.ndarray) -> np.ndarray | None:
    """The values [n] centred and of length 1, of which a product is a correlation; None where there is no such."""
    if len(values) < 3 or (values == values[0]).all():
        return None
    centred = values - values.mean()
    largest = np.abs(centred).max()
    if largest == 0 or not np.isfinite(largest):
        return None
    centred /= largest  # squares of the largest numbers would overflow
    unit: np.ndarray = centred / np.linalg.norm(centred)
    return unit


def _tested(x: np.ndarray | None, y: np.ndarray | None, n: int) -> _Tested:
    """A correlation r, and the chance of one as large without any: r is beta(n/2 - 1, n/2 - 1) on [-1, 1]."""
    from scipy import special

    if x is None or y is None:
        return _Tested(None, None)
    r, shape = float(np.clip(x @ y, -1, 1)), n / 2 - 1
    chance = float(min(1.0, 2 * special.betainc(shape, shape, (1 - abs(r)) / 2)))
    return _Tested(r, max(chance, sys.float_info.min))


def average_precision(values: np.ndarray, positive: np.ndarray) -> float | None:
    """The mean precision at the positive ones, the largest values [N] first; equal values come together.

    NaN values are left out; None where there are no positive ones.

    >>> average_precision(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    0.8333333333333333
    """
    keep = ~np.isnan(values)
    order = np.argsort(-values[keep], kind="stable")
    ranked, marks = values[keep][order], positive[keep].astype(bool)[order]
    if not marks.any():
        return None
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of equal ones
    hits = np.cumsum(marks)[last]
    return float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / marks.sum())


def wilson(n: int) -> float:
    """How far a share that all or none of n samples have may be off: Wilson's interval at one standard error.

    The share's own standard error would be 0, as if no other sample could differ (Wilson 1927).

    >>> wilson(99)
    0.01
    """
    return 1 / (n + 1)


@dataclass(frozen=True)
class Auroc:
    """The chance that a positive sample has the larger value, ties half, over `n` samples, `positive` of them so.

    `stderr` is DeLong's; where the two kinds do not overlap, and it would be 0, it is the bound of `wilson` for as many
    samples as the rarer kind has. It is None where all values are equal, which says nothing of what others would be.
    Value and error are None where one kind is missing.
    """

    value: float | None
    stderr: float | None
    n: int
    positive: int


def auroc(values: np.ndarray, positive: np.ndarray) -> Auroc:
    """How well values [N] find the positive ones. NaN values are left out.

    Sources: Mann and Whitney 1947, by mean ranks; DeLong, DeLong and Clarke-Pearson 1988.

    >>> auroc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True])).value
    0.875
    """
    keep = ~np.isnan(values)
    values, marks = values[keep], positive[keep].astype(bool)
    ones, zeros = int(marks.sum()), int((~marks).sum())
    if not ones or not zeros:
        return Auroc(None, None, len(values), ones)
    above, below = _right_sides(values, marks)
    value = float(above.sum() / (ones * zeros))
    if value in (0.0, 1.0):
        stderr: float | None = wilson(min(ones, zeros))
    elif min(ones, zeros) < 2 or (values == values[0]).all():
        stderr = None
    else:
        stderr = _error(above / zeros, below / ones)
    return Auroc(value, stderr, len(values), ones)


def compared(
    first: np.ndarray, second: np.ndarray, positive: np.ndarray
) -> tuple[float | None, float | None]:
    """By how much the AUROC of one metric [N] is larger than that of another, over the samples that have both, and
    DeLong's standard error of the difference, which knows that both are of the same samples.

    None where one kind of samples is missing; no error where there is one sample of a kind.

    >>> compared(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 3.0]), np.array([False, True, True]))[0]
    0.5
    """
    keep = ~np.isnan(first) & ~np.isnan(second)
    marks = positive[keep].astype(bool)
    if marks.all() or not marks.any():
        return None, None
    sides = [_right_sides(values[keep], marks) for values in (first, second)]
    above, below = (a - b for a, b in zip(*sides, strict=True))
    above, below = above / len(below), below / len(above)
    few = min(len(above), len(below)) < 2
    return float(above.mean()), None if few else _error(above, below)


def _right_sides(values: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every marked sample, and of every other one, how many of the other kind it is on the right side of; equal
    ones are halves.
    """
    from scipy.stats import rankdata

    ranks = rankdata(values)
    above = ranks[marks] - rankdata(values[marks])
    below = marks.sum() - (ranks[~marks] - rankdata(values[~marks]))
    return above, below


def _error(above: np.ndarray, below: np.ndarray) -> float:
    """The standard error of a mean over both kinds of samples (DeLong, DeLong and Clarke-Pearson 1988)."""
    return float(np.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)))
