"""What a summary says of a value per sample."""

from __future__ import annotations

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
