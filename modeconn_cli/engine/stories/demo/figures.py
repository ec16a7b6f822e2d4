"""The demo's picture: straight lines against curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from modeconn_cli.engine.paths.barriers import HEADLINE, barriers
from modeconn_cli.engine.results.figures import BLUE, VERMILION, page
from modeconn_cli.engine.settings.shared import FigureSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def lines_against_curves(
    pairs: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], title: str, look: FigureSettings
) -> bytes:
    """One panel per pair of networks: test loss on the straight line and along the trained curve.

    pair -> {`line`, `curve`} -> {`ts`, `te_nll`}, each [T]. All panels share one scale.
    """
    with page(look, title, len(pairs), sharey=True) as drawn:
        for axis, (name, paths) in zip(drawn.panels, pairs.items(), strict=True):
            draw_line_and_curve(axis, paths["line"], paths["curve"])
            axis.set_title(name, parse_math=False)
    return drawn.content


def draw_line_and_curve(axis: Axes, line: Mapping[str, np.ndarray], curve: Mapping[str, np.ndarray]) -> None:
    """Test loss on the straight line and along the curve between two networks; `ts` and `te_nll`, [T] each."""
    for path, label, colour, dashes in (
        (line, "straight line", VERMILION, "--"), (curve, "Bezier curve", BLUE, "-"),
    ):  # fmt: skip
        ts, loss = path["ts"], path["te_nll"]
        shown = f"{label}: barrier {barriers(ts, loss)[HEADLINE]:.4f}"
        axis.plot(ts, loss, color=colour, linestyle=dashes, linewidth=1.6, label=shown)
        axis.plot([0, 1], loss[[0, -1]], "o", color=colour, clip_on=False, zorder=3)
    axis.set_xlabel("t (0: seed0)")
    axis.set_ylabel("test cross-entropy (nats)")
    axis.set_xlim(0, 1)
    axis.set_ylim(bottom=0)
