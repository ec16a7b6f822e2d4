"""Loss and error along a path, drawn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from modeconn_cli.engine.paths.barriers import HEADLINE, barriers
from modeconn_cli.engine.results.figures import COLOURS, png


def path_figure(
    arrays: Mapping[str, np.ndarray], name: str, *, shade: bool = False, axis_label: str = "t"
) -> bytes:
    """Loss and error along a path, of which `arrays` hold `ts`, `tr_nll`, `te_nll` and `te_err`, each [T].

    Test values are solid, training values dashed; the straight line between the end values is dotted and, with
    `shade`, the area where the test values are above it is filled.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    ts, colour = arrays["ts"], COLOURS[0]
    left.plot(ts, arrays["te_nll"], color=colour, label=f"{name}, test")
    left.plot(ts, arrays["tr_nll"], color=colour, linestyle="--", linewidth=1, label=f"{name}, train")
    right.plot(ts, arrays["te_err"], color=colour)
    for axis, values in ((left, arrays["te_nll"]), (right, arrays["te_err"])):
        axis.plot([0, 1], values[[0, -1]], color="0.5", linestyle=":", linewidth=1)
        if shade:
            straight = np.interp(ts, [0, 1], values[[0, -1]])
            axis.fill_between(
                ts, straight, values, where=values > straight, interpolate=True, color=colour, alpha=0.15, linewidth=0
            )  # fmt: skip
        axis.set_xlabel(axis_label)
        axis.set_xlim(0, 1)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    left.set_ylabel("cross-entropy (nats)")
    right.set_ylabel("test error (%)")
    left.legend(fontsize=8)
    return png(figure)


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
