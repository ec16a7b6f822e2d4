"""The demo's picture: straight lines against curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from modeconn_cli.engine.paths.barriers import HEADLINE, barriers
from modeconn_cli.engine.results.figures import COLOURS, png


def lines_against_curves(pairs: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]) -> bytes:
    """One panel per pair of networks: test loss on the straight line and along the trained curve.

    pair -> {`line`, `curve`} -> {`ts`, `te_nll`}, each [T]. All panels share one scale.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(pairs), 3.8), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(pairs), sharey=True))
    for axis, (name, paths) in zip(panels, pairs.items(), strict=True):
        for key, label, colour in (
            ("line", "straight line", COLOURS[0]),
            ("curve", "Bezier curve", COLOURS[1]),
        ):
            ts, loss = paths[key]["ts"], paths[key]["te_nll"]
            barrier = barriers(ts, loss)[HEADLINE]
            axis.plot(ts, loss, color=colour, linewidth=2, label=f"{label}: barrier {barrier:.4f}")
        axis.set_title(name, parse_math=False)
        axis.legend(loc="upper right")
        axis.set_xlabel("t (0: seed0)")
        axis.set_xlim(0, 1)
        axis.grid(alpha=0.25)
    panels[0].set_ylabel("test cross-entropy (nats)")
    top = max(float(path["te_nll"].max()) for paths in pairs.values() for path in paths.values())
    panels[0].set_ylim(0, 1.4 * top)  # the legends stand above the curves
    return png(figure)
