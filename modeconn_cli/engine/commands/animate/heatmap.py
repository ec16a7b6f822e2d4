"""The still picture of the same data: layers by t."""

from __future__ import annotations

import base64
import re
import textwrap
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modeconn_cli.engine.commands.animate import style
from modeconn_cli.engine.commands.animate.layers import METRICS, LayerDistances, of_table
from modeconn_cli.engine.results.figures import WIDTH, page
from modeconn_cli.engine.settings.shared import FigureSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

ROW, SMALLEST, LARGEST = 0.15, 1.8, 8.0  # inches: a layer's height, and the map's
ROOM = 0.11  # inches that a layer's name takes
_NOTE = re.compile(rb"mcx:([A-Za-z0-9+/]+=*)")


def draw(data: LayerDistances, comment: str, title: str, look: FigureSettings) -> bytes:
    """Every position and layer; `comment` is kept in the file, where `comment_in` finds it."""
    height = min(max(ROW * len(data.names), SMALLEST), LARGEST)
    with page(look, title, width=WIDTH, height=height + 0.5) as drawn:
        mesh = draw_layers(drawn.panels[0], data, int(height / ROOM))
        scale = drawn.figure.colorbar(
            mesh, ax=drawn.panels[0], label=textwrap.fill(METRICS[data.metric][1], 26)
        )
        scale.outline.set_visible(False)
        plain = look.figure_format == "png"
        drawn.notes["mcx"] = comment if plain else base64.b64encode(comment.encode()).decode()
    return drawn.content


def comment_in(content: bytes) -> str:
    """The comment that a PDF or an SVG was drawn with; empty where it holds none."""
    found = _NOTE.search(content)
    return base64.b64decode(found[1]).decode() if found else ""


def draw_layers(axis: Axes, data: LayerDistances | pd.DataFrame, room: int = 40) -> QuadMesh:
    """The distances of all layers by t, `room` of them named; returns the mesh, for a colour bar.

    `data` is a table with t as index and a column per layer: `layer_distances_along_curve/normalized_l2` of `api.read`
    on an output_dir of `mcx curve analyze`, or another of its metrics.
    """
    if not isinstance(data, LayerDistances):
        data = of_table(data)
    low, high = data.span()
    mesh = axis.pcolormesh(
        edges(data.t),
        np.arange(len(data.names) + 1) - 0.5,
        np.ma.masked_invalid(data.drawn.T),
        cmap="viridis" if low >= 0 else "PuOr_r",
        vmin=low if low >= 0 else -max(-low, high),
        vmax=high if low >= 0 else max(-low, high),
        rasterized=True,
    )
    axis.set_facecolor(style.NO_VALUE)
    axis.grid(visible=False)
    axis.invert_yaxis()
    shown = style.labelled(len(data.names), room, data.swapped)
    style.name_ticks(axis.yaxis, data, shown, 6.0)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("t, from endpoint 0 to endpoint 1")
    if data.swapped is not None:
        # Inside the map: at its first or last row a frame beyond it would be cut off.
        first, last = axis.get_xlim()
        for edge in (data.swapped - 0.42, data.swapped + 0.42):
            axis.plot(
                [first, last], [edge, edge], color=style.SWAPPED, linewidth=1.2, scalex=False, scaley=False
            )
    axis.spines[:].set_visible(False)
    return mesh


def edges(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The borders of the columns: half-way between positions, the first and last as wide as their neighbours."""
    if len(t) == 1:
        return np.array([t[0] - 0.5, t[0] + 0.5])
    middle = t[:-1] + np.diff(t) / 2
    return np.concatenate([[2 * t[0] - middle[0]], middle, [2 * t[-1] - middle[-1]]])
