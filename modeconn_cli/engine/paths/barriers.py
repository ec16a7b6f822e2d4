"""Barriers: how much a path rises above its ends, by every definition in use. The definition is always named.

Values are sampled at positions t in [0, 1] that begin with 0 and end with 1; L_A and L_B are the end values.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

HEADLINE = "max_gap"

Barriers = dict[str, dict[str, float | None]]  # definition -> series -> barrier


def barriers(ts: np.ndarray, values: np.ndarray) -> dict[str, float | None]:
    """All definitions for one series, [T] -> numbers; `midpoint` is None where t = ½ is not sampled.

    max_gap: max [L − ((1−t) L_A + t L_B)] (Entezari et al. 2021).  sup_minus_mean: max L − ½(L_A + L_B) (Frankle
    et al. 2020).  midpoint: L(½) − ½(L_A + L_B).  max_minus_max_end: max L − max(L_A, L_B).
    max_minus_min_end: max L − min(L_A, L_B).

    >>> barriers(np.array([0.0, 0.5, 1.0]), np.array([1.0, 4.0, 2.0]))["max_gap"]
    2.5
    """
    first, last = float(values[0]), float(values[-1])
    mean, top = (first + last) / 2, float(values.max())
    with np.errstate(invalid="ignore", over="ignore"):  # of an infinite loss the gaps are NaN
        gaps = values - ((1 - ts) * first + ts * last)
    gaps[0] = gaps[-1] = 0.0  # exactly, whatever the rounding of the line
    middle = np.flatnonzero(ts == 0.5)
    return {
        "max_gap": float(gaps.max()) + 0.0,
        "sup_minus_mean": top - mean,
        "midpoint": float(values[middle[0]]) - mean if len(middle) else None,
        "max_minus_max_end": top - max(first, last),
        "max_minus_min_end": top - min(first, last),
    }


def with_points(found: Barriers) -> Barriers:
    """The same with every barrier of an error under a name that says its unit too, percentage points."""
    return {
        definition: {
            **values,
            **{f"{name}_pp": value for name, value in values.items() if name.startswith("error")},
        }
        for definition, values in found.items()
    }


def all_barriers(ts: np.ndarray, series: Mapping[str, np.ndarray]) -> Barriers:
    """All definitions for several series of one path, [T] each."""
    found = {name: barriers(ts, values) for name, values in series.items()}
    definitions = next(iter(found.values()))
    return {definition: {name: found[name][definition] for name in found} for definition in definitions}
