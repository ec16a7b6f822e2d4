"""What is said of a value per sample: mean, standard deviation and quantiles, and correlations with others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, combinations

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
    """A correlation over the `n` samples with finite values of both; None where a column is constant or n < 3."""

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
    for a, b in combinations(columns, 2):
        both = finite[a] & finite[b]
        shared.setdefault(np.packbits(both).tobytes(), (both, []))[1].append((a, b))
    found: dict[tuple[str, str], Correlation] = {}
    for both, pairs in shared.values():
        n = int(both.sum())
        units = {name: _units(columns[name][both].astype(np.float64)) for name in set(chain(*pairs))}
        for a, b in pairs:
            pearson, spearman = (_tested(x, y, n) for x, y in zip(units[a], units[b], strict=True))
            found[a, b] = Correlation(a, b, n, *pearson, *spearman)
    return [found[pair] for pair in combinations(columns, 2)]


def _units(values: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
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


def _tested(x: np.ndarray | None, y: np.ndarray | None, n: int) -> tuple[float | None, float | None]:
    """A correlation r, and the chance of one as large without any: r is beta(n/2 - 1, n/2 - 1) on [-1, 1]."""
    if x is None or y is None:
        return None, None
    r, shape = float(np.clip(x @ y, -1, 1)), n / 2 - 1
    return r, float(min(1.0, 2 * special.betainc(shape, shape, (1 - abs(r)) / 2)))


def auroc(values: np.ndarray, positive: np.ndarray) -> float | None:
    """The chance that a positive sample has the larger value, ties half; None where one side is empty.

    NaN values are left out. Source: Mann and Whitney 1947, by mean ranks.

    >>> auroc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    0.875
    """
    keep = ~np.isnan(values)
    values, positive = values[keep], positive[keep].astype(bool)
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return None
    ranks = rankdata(values)
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))
