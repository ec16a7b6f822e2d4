"""What is said of a value per sample: mean, standard deviation and quantiles, and correlations with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import special
from scipy.stats import rankdata

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
class Correlation:
    """Over the `n` samples with finite values of both; None where a column is constant or n < 3."""

    metric_a: str
    metric_b: str
    n: int
    pearson: float | None
    pearson_p: float | None
    spearman: float | None
    spearman_p: float | None


def correlations(columns: Mapping[str, np.ndarray]) -> list[Correlation]:
    """Every pair of columns [N]; p two-sided.

    Each column is ranked once for each set of samples that it shares with others, not once for each pair.
    """
    finite = {name: np.isfinite(values) for name, values in columns.items()}
    shared: dict[bytes, tuple[np.ndarray, list[tuple[str, str]]]] = {}
    for pair in combinations(columns, 2):
        both = finite[pair[0]] & finite[pair[1]]
        shared.setdefault(np.packbits(both).tobytes(), (both, []))[1].append(pair)
    found: dict[tuple[str, str], Correlation] = {}
    for both, pairs in shared.values():
        prepared = {name: _Prepared.of(columns[name][both]) for name in {n for pair in pairs for n in pair}}
        for a, b in pairs:
            found[a, b] = _correlate(a, b, prepared[a], prepared[b], int(both.sum()))
    return [found[pair] for pair in combinations(columns, 2)]


@dataclass(frozen=True)
class _Prepared:
    """Values and their ranks, centred and of length 1; None where all are equal."""

    values: np.ndarray | None
    ranks: np.ndarray | None

    @staticmethod
    def of(values: np.ndarray) -> _Prepared:
        values = values.astype(np.float64)
        if len(values) < 3 or (values == values[0]).all():
            return _Prepared(None, None)
        return _Prepared(_unit(values), _unit(rankdata(values)))


def _unit(values: np.ndarray) -> np.ndarray | None:
    centred = values - values.mean()
    largest = np.abs(centred).max()
    if largest == 0 or not np.isfinite(largest):
        return None
    centred /= largest  # squares of the largest numbers would overflow
    unit: np.ndarray = centred / np.linalg.norm(centred)
    return unit


def _correlate(a: str, b: str, x: _Prepared, y: _Prepared, n: int) -> Correlation:
    pearson, spearman = _product(x.values, y.values), _product(x.ranks, y.ranks)
    return Correlation(
        metric_a=a,
        metric_b=b,
        n=n,
        pearson=pearson,
        pearson_p=None if pearson is None else pearson_p(pearson, n),
        spearman=spearman,
        spearman_p=None if spearman is None else spearman_p(spearman, n),
    )


def _product(x: np.ndarray | None, y: np.ndarray | None) -> float | None:
    return None if x is None or y is None else float(np.clip(x @ y, -1, 1))


def pearson_p(r: float, n: int) -> float:
    """The chance of a correlation at least as large without one: r is beta(n/2 - 1, n/2 - 1) on [-1, 1]."""
    shape = n / 2 - 1
    return float(min(1.0, 2 * special.betainc(shape, shape, (1 - abs(r)) / 2)))


def spearman_p(r: float, n: int) -> float:
    """The same for ranks, by Student's t with n - 2 degrees of freedom."""
    if abs(r) == 1:
        return 0.0
    t = abs(r) * np.sqrt((n - 2) / ((1 + r) * (1 - r)))
    return float(2 * special.stdtr(n - 2, -t))
