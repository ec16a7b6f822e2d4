"""Figures as PNG bytes, drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#c44e52", "#4c72b0", "#55a868", "#8172b2", "#937860", "#64b5cd")


def png(figure: Figure) -> bytes:
    """A figure's bytes; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


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
