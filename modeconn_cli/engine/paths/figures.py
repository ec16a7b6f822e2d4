"""Loss and error along a path, drawn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

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
