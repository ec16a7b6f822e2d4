"""The demo's picture: straight lines against curves, and against lines between aligned networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from modeconn_cli.engine.paths.barriers import HEADLINE, barriers
from modeconn_cli.engine.results.figures import BLUE, GREEN, PURPLE, VERMILION, page
from modeconn_cli.engine.settings.shared import FigureSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# What a path is called, and how it is drawn.
PATHS = {
    "line": ("straight line", VERMILION, "--"),
    "curve": ("Bezier curve", BLUE, "-"),
    "aligned": ("aligned", GREEN, "-."),
    "repaired": ("aligned and repaired", PURPLE, "-"),
}


def lines_against_curves(
    pairs: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], title: str, look: FigureSettings
) -> bytes:
    """One panel per pair of networks: test loss along the paths between them.

    pair -> key of PATHS -> {`ts`, `te_nll`}, each [T]. All panels share one scale.
    """
    with page(look, title, len(pairs), sharey=True) as drawn:
        for axis, (name, paths) in zip(drawn.panels, pairs.items(), strict=True):
            draw_paths(axis, paths)
            axis.set_title(name, parse_math=False)
    return drawn.content


def draw_paths(axis: Axes, paths: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Test loss along the paths between two networks; `ts` and `te_nll` of each, [T]."""
    for name, path in paths.items():
        label, colour, dashes = PATHS[name]
        ts, loss = path["ts"], path["te_nll"]
        shown = f"{label}: barrier {barriers(ts, loss)[HEADLINE]:.4f}"
        axis.plot(ts, loss, color=colour, linestyle=dashes, linewidth=1.6, label=shown)
        axis.plot([0, 1], loss[[0, -1]], "o", color=colour, clip_on=False, zorder=3)
    axis.set_xlabel("t (0: seed0)")
    axis.set_ylabel("test cross-entropy (nats)")
    axis.set_xlim(0, 1)
    axis.set_ylim(bottom=0)
