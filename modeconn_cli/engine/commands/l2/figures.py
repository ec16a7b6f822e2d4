"""Figures of many distances: a heat map of all pairs, and the way of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modeconn_cli.engine.commands.l2.trajectory import Waypoint
from modeconn_cli.engine.results.figures import COLOURS, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WRITTEN = 14  # networks up to which cells hold their number
NAMED = 60  # networks up to which the axes name them


def heat_map(labels: Sequence[str], matrices: Mapping[str, np.ndarray]) -> bytes:
    """A panel per kind of distance, symmetric [K, K] each; NaN where a pair could not be measured."""
    from matplotlib.figure import Figure

    side = min(12.0, max(3.6, 0.32 * len(labels) + 2.2))
    figure = Figure(figsize=(side * len(matrices) * 1.15, side), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(matrices)))
    for axis, (title, values) in zip(panels, matrices.items(), strict=True):
        image = axis.imshow(np.ma.masked_invalid(values), cmap="viridis", interpolation="nearest")
        axis.set_title(title, fontsize=10)
        if len(labels) <= NAMED:
            short = [label if len(label) <= 24 else f"{label[:23]}…" for label in labels]
            size = 8 if len(labels) <= 20 else 5
            axis.set_xticks(range(len(labels)), short, rotation=90, fontsize=size, parse_math=False)
            axis.set_yticks(range(len(labels)), short, fontsize=size, parse_math=False)
        if len(labels) <= WRITTEN:
            _write(axis, values)
        figure.colorbar(image, ax=axis, shrink=0.8)
    return png(figure)


def _write(axis: Axes, values: np.ndarray) -> None:
    middle = float(np.nanmean(values)) if np.isfinite(values).any() else 0.0
    for (row, column), value in np.ndenumerate(values):
        shown = "n/a" if not np.isfinite(value) else f"{value:.3g}"
        colour = "black" if not np.isfinite(value) or value > 1.3 * middle else "white"
        axis.text(column, row, shown, ha="center", va="center", fontsize=7, color=colour)


def trajectory(rows: Sequence[Waypoint]) -> bytes:
    """Distances from both ends on the left; steps, and how far they turn, on the right."""
    from matplotlib.figure import Figure

    def values(name: str) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows], dtype=float)  # None: NaN

    epochs = [row.epoch for row in rows]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in (("from_start", COLOURS[1]), ("from_end", COLOURS[0]), ("length", COLOURS[2])):
        left.plot(epochs, values(name), color=colour, marker=".", label=name.replace("_", " "))
    left.set_ylabel("L2 distance")
    left.legend(fontsize=8)
    gaps = np.diff(epochs)
    right.plot(epochs[1:], values("step")[1:] / gaps, color=COLOURS[1], marker=".")
    right.set_ylabel("L2 distance per epoch", color=COLOURS[1])
    turning = right.twinx()
    turning.plot(epochs, values("turn"), color=COLOURS[0], marker=".", linestyle="--")
    turning.set_ylabel("cosine of the angle to the next step", color=COLOURS[0])
    turning.set_ylim(-1.05, 1.05)
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.25)
    return png(figure)
