"""Loss and error along a path, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.paths.barriers import HEADLINE, barriers
from modeconn_cli.engine.paths.opened import OpenedPath
from modeconn_cli.engine.results.figures import BLACK, BLUE, VERMILION, about, page
from modeconn_cli.engine.settings.shared import FigureSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def title(opened: OpenedPath) -> str:
    """The network, the data and the epochs of a path's ends, or of its curve."""
    subject = opened.subject
    said = {each.path: each.epoch for each in subject.checkpoints}
    epochs = [names.epoch_of(path) if path not in said else said[path] for path in opened.files]
    return f"{opened.path.kind}: {about(subject.arch.model, subject.data.name, epochs)}"


def path_figure(
    arrays: Mapping[str, np.ndarray], title: str, look: FigureSettings, *, axis_label: str = "t"
) -> bytes:
    """Loss above error along a path, of which `arrays` hold `ts`, `tr_nll`, `te_nll`, `tr_err`, `te_err`, each [T]."""
    with page(look, title, rows=2, sharex=True) as drawn:
        for axis, series, label in zip(
            drawn.panels, ("nll", "err"), ("cross-entropy (nats)", "error (%)"), strict=True
        ):
            draw_path(axis, arrays["ts"], arrays[f"te_{series}"], arrays[f"tr_{series}"])
            axis.set_ylabel(label)
            axis.tick_params(labelbottom=True)
            axis.set_xlabel(axis_label)
    return drawn.content


def draw_path(axis: Axes, ts: np.ndarray, held_out: np.ndarray, fitted: np.ndarray | None = None) -> None:
    """One series along a path, [T] each, with its ends, the straight line between them, and the barrier.

    Held-out values are solid, those of training images dashed. The barrier is the largest rise over the straight line
    (max_gap), an upright bar where it is; the area between is filled where the path lies above.
    """
    straight = np.interp(ts, [0, 1], held_out[[0, -1]])
    axis.plot(ts, held_out, color=VERMILION, label="held-out images")
    if fitted is not None:
        axis.plot(ts, fitted, color=BLUE, linestyle="--", label="training images")
    axis.plot([0, 1], held_out[[0, -1]], color="0.4", linestyle=":", linewidth=1)
    axis.fill_between(
        ts, straight, held_out, where=held_out > straight, interpolate=True, color=VERMILION, alpha=0.15, linewidth=0
    )  # fmt: skip
    ends = f"ends: {held_out[0]:.3g} and {held_out[-1]:.3g}"
    axis.plot(
        [0, 1], held_out[[0, -1]], "o", color=VERMILION, markeredgecolor="white", clip_on=False, zorder=3, label=ends
    )  # fmt: skip
    rise = barriers(ts, held_out)[HEADLINE]
    if rise is not None and np.isfinite(rise):
        rise = rise if rise > 1e-9 * float(np.abs(held_out).max()) else 0.0  # the line itself is rounded
        at = int(np.nanargmax(held_out - straight)) if rise else 0
        shown = f"barrier: {rise:.3g} ({HEADLINE})"
        axis.plot([ts[at]] * 2, [straight[at], held_out[at]], "_-", color=BLACK, linewidth=1, label=shown)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.08 * axis.get_ylim()[1])  # values at the top are not cut off
