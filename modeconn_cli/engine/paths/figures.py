"""Loss and error along a path, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from modeconn_cli.engine import names
from modeconn_cli.engine.paths.barriers import HEADLINE, barriers
from modeconn_cli.engine.paths.evaluated import Evaluated
from modeconn_cli.engine.paths.opened import OpenedPath
from modeconn_cli.engine.results.figures import (
    BLACK,
    BLUE,
    VERMILION,
    about,
    colours,
    draw_band,
    page,
    shortened,
)
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


def draw_path(
    axis: Axes,
    ts: npt.ArrayLike,
    held_out: npt.ArrayLike,
    fitted: npt.ArrayLike | None = None,
    *,
    label: str | None = None,
    colour: str = VERMILION,
) -> None:
    """One series along a path, [T], with its ends, the straight line between them, and the barrier.

    Arguments are columns of `curve` in `api.read` on an output_dir of `mcx curve eval`: `ts`, `te_nll` … Values of S
    paths, [S, T], are drawn as their mean with a band of one standard deviation. Held-out values are solid, those of
    training images dashed. The barrier is the largest rise over the straight line (max_gap), an upright bar where it
    is; the area between is filled where the path lies above. A `label` stands for the series in the legend, in the
    place of its kind, ends and barrier: for several paths in one panel, each in a `colour` of its own.
    """
    places, each = np.asarray(ts, dtype=float), np.atleast_2d(np.asarray(held_out, dtype=float))
    mean, straight = each.mean(0), np.interp(places, [0, 1], each.mean(0)[[0, -1]])
    axis.plot(places, mean, color=colour, label=label or "held-out images")
    if fitted is not None:
        training = np.atleast_2d(np.asarray(fitted, dtype=float))
        ink = BLUE if label is None else colour
        axis.plot(
            places, training.mean(0), color=ink, linestyle="--", label=None if label else "training images"
        )
        _spread(axis, places, training, ink)
    axis.plot([0, 1], mean[[0, -1]], color="0.4", linestyle=":", linewidth=1)
    if len(each) > 1:
        _spread(axis, places, each, colour)
    else:
        axis.fill_between(
            places, straight, mean, where=mean > straight, interpolate=True, color=colour, alpha=0.15, linewidth=0
        )  # fmt: skip
    ends = None if label else f"ends: {mean[0]:.3g} and {mean[-1]:.3g}"
    axis.plot(
        [0, 1], mean[[0, -1]], "o", color=colour, markeredgecolor="white", clip_on=False, zorder=3, label=ends
    )  # fmt: skip
    rises = [_rise(places, values) for values in each]
    if np.isfinite(rises).all():
        at = int(np.nanargmax(mean - straight)) if any(rises) else 0
        spread = f" ± {np.std(rises, ddof=1):.2g}" if len(rises) > 1 else ""
        shown = None if label else f"barrier: {np.mean(rises):.3g}{spread} ({HEADLINE})"
        axis.plot([places[at]] * 2, [straight[at], mean[at]], "_-", color=BLACK, linewidth=1, label=shown)
    axis.set_xlim(0, 1)
    top = (
        axis.dataLim.y1 if np.isfinite(axis.dataLim.y1) else 1.0
    )  # of values that are no numbers nothing is seen
    axis.set_ylim(0, 1.08 * top)  # values at the top are not cut off, nor those drawn before


def _spread(axis: Axes, places: np.ndarray, each: np.ndarray, colour: str) -> None:
    """The band of several paths, [S, T]."""
    if len(each) > 1:
        draw_band(axis, places, each.mean(0), each.std(0, ddof=1), colour)


def _rise(places: np.ndarray, values: np.ndarray) -> float:
    """The barrier of one path; what is rounding of the straight line is none."""
    rise = barriers(places, values)[HEADLINE]
    if rise is None or not np.isfinite(rise):
        return float("nan")
    return rise if rise > 1e-9 * float(np.abs(values).max()) else 0.0


def compared(groups: Mapping[str, Sequence[Evaluated]], title: str, look: FigureSettings) -> bytes:
    """Loss above error of held-out images along several paths, each in a colour of its own.

    Several evaluations of one path are their mean with a band of one standard deviation, where their positions are the
    same, else a line each.
    """
    with page(look, title, rows=2, sharex=True) as drawn:
        for axis, series, label in zip(
            drawn.panels, ("te_nll", "te_err"), ("cross-entropy (nats)", "error (%)"), strict=True
        ):
            for colour, (name, members) in zip(colours(len(groups)), groups.items(), strict=True):
                seeds = f" ({len(members)} seeds)" if len(members) > 1 else ""
                ts = members[0].arrays["ts"]
                if all(np.array_equal(each.arrays["ts"], ts) for each in members):
                    values = np.stack([each.arrays[series] for each in members])
                    draw_path(axis, ts, values, label=shortened(name) + seeds, colour=colour)
                    continue
                for number, each in enumerate(members):
                    said = shortened(name) + seeds if number == 0 else "_"
                    draw_path(axis, each.arrays["ts"], each.arrays[series], label=said, colour=colour)
            axis.set_ylabel(label)
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("t")
    return drawn.content
