"""Heat maps of `mcx lmc interpolate --by-layer`: layers by α."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modeconn_cli.engine.commands.lmc.by_layer import ENDS, MOVES, LayerLine
from modeconn_cli.engine.paths.feature_connectivity import SiteConnectivity
from modeconn_cli.engine.results.figures import MISSING, WIDE, WIDTH, page, shortened
from modeconn_cli.engine.settings.shared import FigureSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

ROW, LEAST, MOST = 0.16, 1.2, 8.0  # inches: a layer's height, and a map's
ROOM = 0.11  # inches that a layer's name takes
SERIES = "loss_test"
_WORDS = {"alone": "one layer moves", "up_to": "all up to it move"}


def gaps(
    lines: Sequence[LayerLine], alphas: npt.ArrayLike, title: str, look: FigureSettings, axis_label: str
) -> bytes:
    """The gap of the held-out loss to the straight line between both networks' losses, a map per kind of line."""
    kinds = [(moves, rest) for moves in MOVES for rest in ENDS]
    own = {kind: [each for each in lines if (each.moves, each.rest) == kind] for kind in kinds}
    values = {kind: np.array([each.gap[SERIES] for each in own[kind]]) for kind in kinds}
    top = max(float(np.abs(each[np.isfinite(each)]).max(initial=0.0)) for each in values.values()) or 1.0
    names = [each.layer for each in own[kinds[0]]]
    height = _height(len(names))
    with page(look, title, 2, 2, width=WIDE, height=height + 0.5, sharex=True, sharey=True) as drawn:
        for axis, kind in zip(drawn.panels, kinds, strict=True):
            mesh = draw_layer_map(
                axis, values[kind], alphas, names, low=-top, high=top, room=int(height / ROOM)
            )
            axis.set_title(f"{_WORDS[kind[0]]}, the rest from α = {kind[1]}", loc="left")
            if kind[0] == MOVES[-1]:
                axis.set_xlabel(axis_label)
        scale = drawn.figure.colorbar(mesh, ax=drawn.panels, label="held-out loss above the line (nats)")
        scale.outline.set_visible(False)
    return drawn.content


def cosines(
    sites: Sequence[SiteConnectivity],
    alphas: npt.ArrayLike,
    title: str,
    look: FigureSettings,
    axis_label: str,
) -> bytes:
    """The cosine of the features on the line and those of the ends, interpolated."""
    height = _height(len(sites))
    values = np.array([each.cosine for each in sites], dtype=float)
    names = [f"{each.behind or each.layer} ({each.site})" for each in sites]
    with page(look, title, width=WIDTH, height=height + 0.5) as drawn:
        axis = drawn.panels[0]
        mesh = draw_layer_map(axis, values, alphas, names, high=1.0, room=int(height / ROOM))
        axis.set_xlabel(axis_label)
        scale = drawn.figure.colorbar(
            mesh, ax=axis, label="cosine with the features\nof the ends, interpolated"
        )
        scale.outline.set_visible(False)
    return drawn.content


def draw_layer_map(
    axis: Axes,
    values: npt.ArrayLike,
    alphas: npt.ArrayLike,
    names: Sequence[str],
    *,
    low: float | None = None,
    high: float | None = None,
    room: int = 40,
) -> QuadMesh:
    """Values [layers, T] over layers and α, `room` of the layers named; returns the mesh, for a colour bar.

    They are columns of `api.read` on an output_dir of `mcx lmc interpolate --by-layer`: `cosine` or `coefficient` of
    `line_summary/features`, a `gap` of `line_summary/layers` in its rows of one `moves` and `rest`. With a `low` below
    zero the colours go both ways from zero.
    """
    cells, places = np.asarray(values, dtype=float), np.asarray(alphas, dtype=float)
    middle = places[:-1] + np.diff(places) / 2
    edges = np.concatenate([[0.0], middle, [1.0]])
    mesh = axis.pcolormesh(
        edges,
        np.arange(len(names) + 1) - 0.5,
        np.ma.masked_invalid(cells),
        cmap="PuOr_r" if low is not None and low < 0 else "viridis",
        vmin=low,
        vmax=high,
        rasterized=True,
    )
    axis.set_facecolor(MISSING)
    axis.grid(visible=False)
    shown = range(0, len(names), -(-len(names) // max(room, 1)))
    axis.set_yticks([*shown], [shortened(names[k]) for k in shown], fontsize=6.0, parse_math=False)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.spines[:].set_visible(False)
    return mesh


def _height(rows: int) -> float:
    return min(max(ROW * rows, LEAST), MOST)
