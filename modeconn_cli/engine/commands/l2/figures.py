"""Figures of many distances: a heat map of all pairs, and the way of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Union

import numpy as np
import numpy.typing as npt

from modeconn_cli.engine.commands.l2.trajectory import Waypoint
from modeconn_cli.engine.results.figures import (
    BLUE,
    GREEN,
    VERMILION,
    WIDTH,
    draw_cells,
    lines_of,
    page,
    shortened,
    whole_numbers,
)
from modeconn_cli.engine.settings.shared import FigureSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

Way = Union[Sequence[Waypoint], "pd.DataFrame"]  # a waypoint per epoch

WRITTEN = 14  # networks up to which cells hold their number
NAMED = 60  # networks up to which the axes name them


def heat_map(
    labels: Sequence[str], matrices: Mapping[str, np.ndarray], title: str, look: FigureSettings
) -> bytes:
    """A panel per kind of distance, symmetric [K, K] each; NaN where a pair could not be measured."""
    width = min(12.0, max(WIDTH, 0.34 * len(labels) + 1.6))
    with page(look, title, len(matrices), width=width, height=0.85 * width) as drawn:
        for axis, (name, values) in zip(drawn.panels, matrices.items(), strict=True):
            image = draw_distances(axis, labels, values)
            drawn.figure.colorbar(image, ax=axis, shrink=0.8, label=name)
    return drawn.content


def draw_distances(axis: Axes, labels: Sequence[str], values: npt.ArrayLike) -> AxesImage:
    """Distances between all pairs of networks, [K, K], an array or a table, NaN where there is none; returns the image,
    for a colour bar. `labels` name the networks.
    """
    labels = [str(label) for label in labels]
    image = draw_cells(
        axis,
        np.asarray(values, dtype=float),
        low=0,
        written=len(labels) <= WRITTEN,
        size=6 if len(labels) < 8 else 4.5,
    )
    axis.set_aspect("equal")
    if len(labels) <= NAMED:
        size = 6.5 if len(labels) <= 20 else 4.5
        for ticks, turn in ((axis.set_xticks, 90), (axis.set_yticks, 0)):
            short = [shortened(label) for label in labels]
            ticks(range(len(labels)), short, rotation=turn, fontsize=size, parse_math=False)
    return image


def trajectory(rows: Sequence[Waypoint], title: str, look: FigureSettings) -> bytes:
    """Distances from both ends and the length of the way, then the steps, then how far they turn."""
    with page(look, title, 3, height=1.6, sharex=True) as drawn:
        for axis, draw in zip(drawn.panels, (draw_way, draw_steps, draw_turns), strict=True):
            draw(axis, rows)
            axis.tick_params(labelbottom=True)
    return drawn.content


def _values(rows: Way, name: str) -> np.ndarray:
    """A column, [E]; None is NaN."""
    if not isinstance(rows, Sequence):
        return np.asarray(rows[name], dtype=float)
    return np.array([getattr(row, name) for row in rows], dtype=float)


def draw_way(axis: Axes, rows: Way) -> None:
    """How far each epoch is from the first and from the last, and how long the way there was.

    `rows` are `trajectory` of `api.read` on an output_dir of `mcx l2 RUN`, or `answer.result.trajectory`.
    """
    epochs = _values(rows, "epoch")
    for k, (name, words) in enumerate(
        (("from_start", "from the first"), ("from_end", "from the last"), ("length", "along the way"))
    ):
        axis.plot(epochs, _values(rows, name), color=(BLUE, VERMILION, GREEN)[k], label=words, **lines_of(k))
    axis.set_ylabel("L2 distance")
    axis.set_ylim(bottom=0)
    whole_numbers(axis)


def draw_steps(axis: Axes, rows: Way) -> None:
    """The distance per epoch from each checkpoint to the next; `rows` as for the way."""
    epochs = _values(rows, "epoch")
    axis.plot(epochs[1:], _values(rows, "step")[1:] / np.diff(epochs), color=BLUE, marker="o")
    axis.set_ylabel("L2 per epoch")
    axis.set_ylim(bottom=0)
    whole_numbers(axis)


def draw_turns(axis: Axes, rows: Way) -> None:
    """The cosine of the angle between each step and the next; `rows` as for the way."""
    axis.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
    axis.plot(_values(rows, "epoch"), _values(rows, "turn"), color=VERMILION, marker="s")
    axis.set_ylabel("cosine to the next step")
    axis.set_ylim(-1.05, 1.05)
    whole_numbers(axis)
