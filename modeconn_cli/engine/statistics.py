"""What summaries and figures say of a value per sample: mean, standard deviation and quantiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NAMES = ("mean", "std", *(f"q{100 * q:g}" for q in QUANTILES))


def statistics(values: np.ndarray) -> dict[str, float | None]:
    """Mean, standard deviation and quantiles of the finite values [N]; None each where there are none."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return dict.fromkeys(NAMES)
    found = (finite.mean(), finite.std(), *np.quantile(finite, QUANTILES))
    return {name: float(value) for name, value in zip(NAMES, found, strict=True)}


def bands(axis: Axes, places: Sequence[int], rows: Sequence[Mapping[str, float | None]], colour: str) -> None:
    """Draw the quantiles of `rows` over places: 5-95 and 25-75 % as bands, the median as a line."""
    values = {name: np.array([row[name] for row in rows], dtype=float) for name in rows[0]}  # None: NaN
    for low, high, alpha in (("q5", "q95", 0.15), ("q25", "q75", 0.3)):
        shown = f"{low[1:]}-{high[1:]} % of samples"
        axis.fill_between(
            places, values[low], values[high], color=colour, alpha=alpha, linewidth=0, label=shown
        )
    marker = "o" if len(places) < 3 else None
    axis.plot(places, values["q50"], color=colour, linestyle="--", linewidth=1, marker=marker, label="median")
