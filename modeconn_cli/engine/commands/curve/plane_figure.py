"""A plane drawn: contours of training loss and held-out error, with the networks, the curve or the run in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modeconn_cli.engine.results.figures import BLACK, ORANGE, page
from modeconn_cli.engine.settings.curve import CurvePlaneSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = 14  # contours
HEIGHT = 2.4  # inches of a panel
LONGEST = 2.5  # of a plane whose axes have one scale; a longer one fills the panel


def plane_figure(arrays: Mapping[str, np.ndarray], title: str, settings: CurvePlaneSettings) -> bytes:
    """Training loss above held-out error on a plane, of which `arrays` hold what `plane.npz` does."""
    with page(settings, title, rows=2, height=HEIGHT) as drawn:
        for axis, series, label in zip(
            drawn.panels, ("tr_loss", "te_err"), ("training loss (nats)", "held-out error (%)"), strict=True
        ):
            contours = draw_plane(axis, arrays, series, settings.levels)
            if contours is not None:
                drawn.figure.colorbar(contours, ax=axis, label=label, format="%.3g").outline.set_visible(
                    False
                )
    return drawn.content


def draw_plane(
    axis: Axes, arrays: Mapping[str, np.ndarray], series: str, levels: Literal["log", "linear"] = "log"
) -> Any:
    """Contours of one series of `plane.npz`, white where a loss is not finite, with the networks and what joins them.

    `arrays` are those of `np.load` on that file of `mcx curve plane`, or a mapping of its keys. Returns the contours,
    for a colour bar; None where no cell is finite.
    """
    finite = np.isfinite(arrays["tr_loss"]) & np.isfinite(arrays["te_loss"])
    values = np.where(finite, np.asarray(arrays[series], dtype=float), np.nan)
    xs, ys = np.asarray(arrays["coordinates"])
    places = np.asarray(arrays["bend_coordinates"])
    axis.grid(visible=False)
    axis.set_facecolor("white")
    contours, steps = None, spaced(values, levels)
    if steps is not None:
        shown = np.ma.masked_invalid(np.clip(values, steps[0], steps[-1])).T
        norm = _norm(steps)
        contours = axis.contourf(xs, ys, shown, levels=steps, norm=norm, cmap="viridis")
        axis.contour(xs, ys, shown, levels=steps, colors="white", linewidths=0.3, alpha=0.6)
    if "curve_coordinates" in arrays:
        axis.plot(*np.asarray(arrays["curve_coordinates"]).T, color=BLACK, linewidth=1.2, label="curve")
        axis.plot(*places.T, color=BLACK, linestyle=":", linewidth=0.7)
    elif "epochs" in arrays:
        axis.plot(*places.T, color=BLACK, linewidth=0.8, label="run, projected")
    axis.plot(
        *places.T, linestyle="none", marker="o", color=ORANGE, markeredgecolor="black", markeredgewidth=0.5,
        clip_on=False, label=_called(arrays),
    )  # fmt: skip
    axis.set_xlabel("distance along the first direction")
    axis.set_ylabel("along the second")
    wide, tall = np.ptp(xs), np.ptp(ys)
    axis.set_aspect("equal" if tall < LONGEST * wide and wide < LONGEST * tall else "auto")
    return contours


def spaced(values: np.ndarray, levels: Literal["log", "linear"]) -> np.ndarray | None:
    """The values that contours are drawn at, ascending; None where no cell is finite.

    Logarithmic ones begin at the least positive value; where there is none, or all are equal, they are linear.

    >>> spaced(np.array([0.0, 1.0, np.nan, 100.0]), "log")[[0, -1]].tolist()
    [1.0, 100.0]
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    positive = finite[finite > 0]
    if levels == "log" and len(positive) and positive.min() < high:
        return np.geomspace(positive.min(), high, STEPS)
    return np.linspace(low, high if high > low else low + (abs(low) or 1.0), STEPS)


def _norm(steps: np.ndarray) -> Any:
    """Equal steps of colour from contour to contour."""
    from matplotlib.colors import BoundaryNorm

    return BoundaryNorm(steps, 256)


def _called(arrays: Mapping[str, np.ndarray]) -> str:
    if "curve_coordinates" in arrays:
        return "control points"
    if "epochs" in arrays:
        return "checkpoints"
    return "network" if len(arrays["bend_coordinates"]) == 1 else "networks"
