"""How the pictures of layers look: colours, the pixels of the animation, labels of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modeconn_cli.engine.commands.animate.layers import LayerDistances
from modeconn_cli.engine.errors import one_line
from modeconn_cli.engine.results.figures import BLUE, GREEN, MISSING, ORANGE, SKY, VERMILION

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DPI = 100  # of the animation, whose size is in pixels
INK, MUTED, GRID, TRACK, NO_VALUE = "#20242c", "#767c88", "#e4e6ea", "#d3d6dc", MISSING
SWAPPED = VERMILION
FILLS = {"convolution": GREEN, "linear": BLUE, "normalization": SKY, "other": ORANGE}
LONGEST_LABEL = 22


def new_figure(width: int, height: int) -> tuple[Figure, Any]:
    """A white figure of so many pixels and its canvas in memory, whose methods matplotlib leaves untyped."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    return figure, FigureCanvasAgg(figure)


def label(name: str) -> str:
    """A layer's name on one line, its middle left out where it is long."""
    line = one_line(name)
    return line if len(line) <= LONGEST_LABEL else f"{line[:7]}…{line[8 - LONGEST_LABEL :]}"


def labelled(count: int, room: int, swapped: int | None) -> list[int]:
    """Which of `count` layers are named where `room` names fit: evenly spaced, and always the swapped one."""
    step = -(-count // room)
    chosen = list(range(0, count, step))
    if swapped is None or swapped in chosen:
        return chosen
    return sorted([i for i in chosen if abs(i - swapped) >= step / 2 or step == 1] + [swapped])


def name_ticks(axis: Axis, data: LayerDistances, shown: Sequence[int], size: float, **text: object) -> None:
    """Name layers along an axis; the swapped one is bold and of its own colour."""
    axis.set_ticks(list(shown), [label(data.names[i]) for i in shown])
    for i, tick in zip(shown, axis.get_ticklabels(), strict=True):
        tick.set(parse_math=False, fontsize=size, color=INK, **text)
        if i == data.swapped:
            tick.set(color=SWAPPED, fontweight="bold")
