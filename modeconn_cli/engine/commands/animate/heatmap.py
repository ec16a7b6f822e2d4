"""The still picture of the same data: layers by t."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from modeconn_cli.engine.commands.animate import style
from modeconn_cli.engine.commands.animate.layers import METRICS, LayerDistances

WIDTH, EDGE, ROW = 960, 24, 22
HEADER, BELOW = 62, 56
SMALLEST, LARGEST = 260, 900  # height of the map itself


def draw(data: LayerDistances, comment: str) -> bytes:
    """A PNG of every position and layer; `comment` is kept in its text."""
    rows = min(max(ROW * len(data.names), SMALLEST), LARGEST)
    height = rows + HEADER + BELOW
    figure, canvas = style.new_figure(WIDTH, height)
    shown = style.labelled(len(data.names), rows // 14, data.swapped)
    size = 9.5 if rows / len(shown) > 18 else 8.0
    left = EDGE + 10 + text_width(canvas, [style.label(data.names[i]) for i in shown], size)
    axes = figure.add_axes((left / WIDTH, BELOW / height, (WIDTH - 120 - left) / WIDTH, rows / height))
    bar = figure.add_axes(((WIDTH - 104) / WIDTH, BELOW / height, 14 / WIDTH, rows / height))
    title, axis = METRICS[data.metric]
    low, high = data.span()
    mesh = axes.pcolormesh(
        edges(data.t),
        np.arange(len(data.names) + 1) - 0.5,
        np.ma.masked_invalid(data.drawn.T),
        cmap="viridis" if low >= 0 else "RdBu_r",
        vmin=low if low >= 0 else -max(-low, high),
        vmax=high if low >= 0 else max(-low, high),
    )
    axes.set_facecolor(style.NO_VALUE)
    axes.invert_yaxis()
    style.name_ticks(axes.yaxis, data, shown, size)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.tick_params(axis="x", color=style.MUTED, labelcolor=style.INK, labelsize=10)
    axes.set_xlabel("t, from endpoint 0 to endpoint 1", fontsize=10.5, color=style.INK)
    if data.swapped is not None:
        frame = Rectangle((0, data.swapped - 0.5), 1, 1, transform=axes.get_yaxis_transform(), clip_on=False)
        frame.set(fill=False, edgecolor=style.SWAPPED, linewidth=2)
        axes.add_patch(frame)
    axes.spines[:].set_visible(False)
    scale = figure.colorbar(mesh, cax=bar, format=FuncFormatter(lambda value, _: f"{value:g}"))
    scale.outline.set_visible(False)
    scale.set_label(axis, fontsize=10.5, color=style.INK)
    bar.tick_params(color=style.MUTED, labelcolor=style.INK, labelsize=10)
    figure.text(EDGE / WIDTH, 1 - 38 / height, title, fontsize=15, weight="bold", color=style.INK)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"mcx": comment})
    return buffer.getvalue()


def edges(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The borders of the columns: half-way between positions, the first and last as wide as their neighbours."""
    if len(t) == 1:
        return np.array([t[0] - 0.5, t[0] + 0.5])
    middle = t[:-1] + np.diff(t) / 2
    return np.concatenate([[2 * t[0] - middle[0]], middle, [2 * t[-1] - middle[-1]]])


def text_width(canvas: Any, texts: Sequence[str], size: float) -> float:
    """Pixels of the longest of some texts."""
    renderer = canvas.get_renderer()
    font = FontProperties(size=size, weight="bold")
    return max(float(renderer.get_text_width_height_descent(text, font, False)[0]) for text in texts)
