"""How the pictures look: colours, words, labels, and a matplotlib that no setting of the machine changes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from modeconn_cli.engine.commands.animate.layers import LayerDistances

DPI = 100
INK, MUTED, GRID, TRACK, NO_VALUE = "#20242c", "#767c88", "#e4e6ea", "#d3d6dc", "#eeeef1"
SWAPPED = "#d3202e"
FILLS = {"conv": "#57ab5a", "linear": "#7d4fb0", "norm": "#94a6bd", "other": "#c9b48f"}
KIND_WORDS = {
    "conv": "convolution",
    "linear": "linear",
    "norm": "normalization",
    "other": "other",
}
LONGEST_LABEL = 22


@dataclass(frozen=True)
class Words:
    """A metric in words: the title and the label of its axis."""

    title: str
    axis: str
    scale: float = 1.0


WORDS = {
    "normalized_l2": Words("Normalized L2 distance of each layer", "normalized L2 distance from endpoint 0"),
    "relative": Words("Relative distance of each layer", "L2 distance from endpoint 0, % of its norm", 100.0),
    "raw_l2": Words("Raw L2 distance of each layer", "L2 distance from endpoint 0"),
    "modulo_swap_l2": Words(
        "L2 distance of each layer, modulo the swap", "L2 distance from endpoint 0 or its swapped copy"
    ),
    "from_line_l2": Words(
        "L2 distance of each layer from the straight line", "L2 distance from the line between the endpoints"
    ),
    "norm_difference": Words("Norm difference of each layer", "difference of norms, t and endpoint 0"),
}


@contextlib.contextmanager
def plain_matplotlib() -> Iterator[None]:
    """matplotlib as it comes: neither a matplotlibrc nor a character without a glyph changes or stops a figure."""
    settings = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith("backend")}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        yield


def new_figure(width: int, height: int) -> tuple[Figure, Any]:
    """A white figure of so many pixels and its canvas in memory, whose methods matplotlib leaves untyped."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    return figure, FigureCanvasAgg(figure)


def label(name: str) -> str:
    """A layer's name on one line, its middle left out where it is long."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
    if len(line) <= LONGEST_LABEL:
        return line
    return f"{line[:7]}…{line[8 - LONGEST_LABEL :]}"


def labelled(count: int, room: int, swapped: int | None) -> list[int]:
    """Which of `count` layers are named where `room` names fit: evenly spaced, and always the swapped one."""
    step = -(-count // room)
    chosen = list(range(0, count, step))
    if swapped is None or swapped in chosen:
        return chosen
    return sorted([i for i in chosen if abs(i - swapped) >= step / 2 or step == 1] + [swapped])


def name_ticks(axis: Axis, data: LayerDistances, shown: Sequence[int], size: float, **text: object) -> None:
    """Name layers along an axis; the swapped one is red and bold."""
    axis.set_ticks(list(shown), [label(data.names[i]) for i in shown])
    for i, tick in zip(shown, axis.get_ticklabels(), strict=True):
        tick.set(parse_math=False, fontsize=size, color=INK, **text)
        if i == data.swapped:
            tick.set(color=SWAPPED, fontweight="bold")


def text_width(canvas: Any, texts: Sequence[str], size: float) -> float:
    """Pixels of the longest of some texts."""
    renderer = canvas.get_renderer()
    font = FontProperties(size=size, weight="bold")
    return max(float(renderer.get_text_width_height_descent(text, font, False)[0]) for text in texts)


def span(data: LayerDistances) -> tuple[float, float]:
    """The smallest and largest value of every position and layer, and zero, in the axis' unit."""
    scaled = data.values * WORDS[data.metric].scale
    low, high = min(float(np.nanmin(scaled)), 0.0), max(float(np.nanmax(scaled)), 0.0)
    # Where there is nothing to see, and ticks so close cannot be computed, the axis goes to one.
    return (low, high) if high - low > 1e-290 else (0.0, 1.0)


def limits(data: LayerDistances) -> tuple[float, float]:
    """Lower and upper end of the axis of the bars; the same for every position."""
    low, high = span(data)
    room = 0.05 * (high - low)
    return (low - room if low < 0 else 0.0), (high + room if high > 0 else 0.0)
