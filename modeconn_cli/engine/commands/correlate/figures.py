"""The scatter matrix, groups, tasks, and dormancy over epochs. Names from outside are never read as mathtext."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.correlate.groups import TaskSamples
from modeconn_cli.engine.commands.correlate.join import TASK
from modeconn_cli.engine.errors import one_line
from modeconn_cli.engine.results.figures import COLOURS, bands, png
from modeconn_cli.engine.statistics import NAMES, Correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 5_000  # more samples are drawn as counts
BINS = 60
LONGEST = 24  # characters of a name that fit beside a panel
MOST = 12  # metrics in a figure
NAMED = 10  # tasks that are named one by one
LARGEST = 1e300  # an axis bears no more


def label(name: str) -> str:
    """A name that fits."""
    text = one_line(name)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def scatter(metrics: pd.DataFrame, found: Sequence[Correlation], flag: pd.Series | None = None) -> bytes:
    """Pairs below the diagonal, histograms on it, Spearman and Pearson above it.

    Samples where `flag` is 1 are drawn in red, as long as samples are drawn as points. The ends of each metric's
    range stand at the margins.
    """
    from matplotlib.figure import Figure

    scaled = [_Scaled(metrics[name]) for name in metrics.columns[:MOST]]
    count = max(len(scaled), 1)
    side = 1.5 * count
    figure = Figure(figsize=(side + 1.2, side + 0.8))
    panels = figure.subplots(count, count, squeeze=False)
    # Margins by hand: a layout engine takes seconds for 64 panels.
    figure.subplots_adjust(
        left=1 / (side + 1.2), right=1 - 0.1 / (side + 1.2), bottom=0.6 / (side + 0.8), top=1 - 0.1 / (side + 0.8)
    )  # fmt: skip
    correlation = {(c.metric_a, c.metric_b): c for c in found}
    flagged = None if flag is None else flag.to_numpy() == 1
    for (i, y), (j, x) in product(enumerate(scaled), repeat=2):
        axis = panels[i][j]
        axis.set_xticks([])
        axis.set_yticks([])
        if i == j:
            axis.stairs(np.bincount(x.bins[x.bins >= 0], minlength=BINS), fill=True, color=COLOURS[1])
        elif i < j:
            _numbers(axis, correlation[y.name, x.name])
        elif len(metrics) > POINTS:
            _counts(axis, x, y)
        else:
            _points(axis, x, y, flagged)
        if j == 0:
            axis.set_ylabel(y.label, fontsize=7, parse_math=False)
        if i == count - 1:
            axis.set_xlabel(x.label, fontsize=7, parse_math=False)
    return png(figure)


class _Scaled:
    """A metric [N] in units of its range, from 0 to 1, and the bin of each value; NaN and -1 for what is not finite."""

    def __init__(self, metric: pd.Series) -> None:
        values = metric.to_numpy(np.float64)
        finite = np.isfinite(values)
        low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 1.0)
        # Halves, as the difference of the largest numbers would overflow.
        width = high / 2 - low / 2
        self.units = np.where(finite, values / 2 - low / 2, np.nan) / (width or 1.0)
        self.bins = np.where(finite, self.units * (BINS - 1e-9), -1).astype(np.int8)
        self.name = str(metric.name)
        self.label = f"{label(self.name)}\n{low:.3g} … {high:.3g}"


def _counts(axis: Axes, x: _Scaled, y: _Scaled) -> None:
    both = (x.bins >= 0) & (y.bins >= 0)
    cells = BINS * y.bins[both].astype(np.int64) + x.bins[both]
    counts = np.bincount(cells, minlength=BINS * BINS).reshape(BINS, BINS)
    shades = np.log1p(np.where(counts > 0, counts, np.nan))
    axis.imshow(shades, origin="lower", aspect="auto", cmap="viridis")


def _points(axis: Axes, x: _Scaled, y: _Scaled, flagged: np.ndarray | None) -> None:
    size = 2.0 if len(x.units) <= POINTS // 2 else 1.0
    # In units of the ranges: no axis of its own has to bear 1e300.
    axis.plot(x.units, y.units, ".", markersize=size, markeredgewidth=0, color=COLOURS[1])
    if flagged is not None:
        those = x.units[flagged], y.units[flagged]
        axis.plot(*those, ".", markersize=1.5 * size, markeredgewidth=0, color=COLOURS[0])
    axis.set_xlim(-0.03, 1.03)
    axis.set_ylim(-0.03, 1.03)


def _numbers(axis: Axes, found: Correlation) -> None:
    from matplotlib.colors import to_rgba

    spearman, pearson = (
        "n/a" if value is None else f"{value:+.2f}" for value in (found.spearman, found.pearson)
    )
    how: dict[str, Any] = {"ha": "center", "va": "center", "transform": axis.transAxes}
    axis.text(0.5, 0.6, f"Spearman {spearman}", fontsize=9, **how)
    axis.text(0.5, 0.35, f"Pearson {pearson}", fontsize=7, **how)
    strength = found.spearman or 0.0
    axis.set_facecolor(to_rgba(COLOURS[0] if strength > 0 else COLOURS[1], 0.5 * abs(strength)))


def groups(found: Mapping[str, pd.DataFrame], metrics: Sequence[str]) -> bytes:
    """Mean and standard deviation of each metric, a column of panels per kind of group: key -> the groups by it."""
    from matplotlib.figure import Figure

    names = metrics[:MOST]
    figure = Figure(figsize=(4.6 * len(found), 2.2 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), len(found), squeeze=False)
    for (key, group), column in zip(found.items(), panels.T, strict=True):
        for name, axis in zip(names, column, strict=True):
            mean, sd = group[f"{name}_mean"], group[f"{name}_sd"].fillna(0)
            shown = np.maximum(mean.abs(), sd) < LARGEST  # the axis has to hold both together
            drawn = pd.concat([group[key], mean, sd], axis=1)[shown].to_numpy().T
            axis.errorbar(*drawn, fmt=".", color=COLOURS[1], ecolor="0.7", elinewidth=1, markersize=4)
            _name_axes(axis, key, name)
    return png(figure)


def _name_axes(axis: Any, key: str, metric: str) -> None:
    """A metric by numbers of classes or tasks."""
    axis.set_xlabel(key)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylabel(label(metric), parse_math=False)
    axis.grid(alpha=0.25)


def tasks(found: Sequence[TaskSamples]) -> bytes:
    """When the samples of each task were seen, and the quantiles of each metric by task."""
    from matplotlib.figure import Figure

    names = list(found[0].metrics)[: MOST - 1]
    seen = [task for task in found if task.first_epoch is not None and task.last_epoch is not None]
    count = len(names) + bool(seen)
    across = min(count, 4)
    figure = Figure(figsize=(3.6 * across, 2.9 * -(-count // across)), layout="constrained")
    panels = list(figure.subplots(-(-count // across), across, squeeze=False).flat)
    for spare in panels[count:]:
        spare.set_axis_off()
    if seen:
        _exposures(panels.pop(0), seen)
    for axis, name in zip(panels, names, strict=False):
        bands(axis, [task.task for task in found], [task.metrics[name] for task in found], COLOURS[1])
        _name_axes(axis, "task", name)
    panels[0].legend(fontsize=7)
    return png(figure)


def _exposures(axis: Any, seen: Sequence[TaskSamples]) -> None:
    """A line per task, from the first epoch that its samples were seen in to the last."""
    how = {"textcoords": "offset points", "fontsize": 6, "ha": "right"}
    for task in seen:
        ends, heights = [task.first_epoch, task.last_epoch], [task.task, task.task]
        axis.plot(ends, heights, color=COLOURS[1], linewidth=3, marker=".")
        if len(seen) <= NAMED:
            words = f"{task.samples:,} samples, {task.times_seen:.3g} times"
            axis.annotate(words, (task.last_epoch, task.task), (0, 4), **how)
    axis.margins(y=0.15)
    axis.set_xlabel("epoch of training, from 0")
    axis.set_ylabel("task: first to last exposure")
    axis.invert_yaxis()
    axis.grid(alpha=0.25)


def evolution(table: pd.DataFrame, flag: str | None) -> bytes:
    """Mean and quantiles of the dormant proportions over epochs, and the mean of every task; a panel per proportion."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names = table["metric"].unique()
    tasks = sorted(table[TASK].dropna().unique())
    figure = Figure(figsize=(5.2 * len(names), 3.8), layout="constrained")
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        found = table[(table["metric"] == name) & (table["samples"] > 0)]
        rows = found[found[TASK].isna()]
        if len(rows):
            bands(axis, rows["epoch"], rows[[*NAMES]].to_dict("records"), COLOURS[1])
        lines = [("mean", "mean", COLOURS[1])]
        if flag is not None:
            lines.append(("flagged_mean", f"{label(flag)}: yes", COLOURS[0]))
            lines.append(("unflagged_mean", f"{label(flag)}: no", COLOURS[2]))
        for column, words, colour in lines:
            axis.plot(rows["epoch"], rows[column].astype(float), color=colour, marker=".", label=words)
        for k, task in enumerate(tasks):
            own, shade = found[found[TASK] == task], colormaps["viridis"](k / max(len(tasks) - 1, 1))
            named = len(tasks) <= NAMED or task in (tasks[0], tasks[-1])  # of many the first and the last
            words = f"task {task}" if named else "_"
            axis.plot(own["epoch"], own["mean"], color=shade, linewidth=1, marker=".", label=words)
        axis.set_xlabel("completed epochs")
        axis.set_ylabel(name)
        axis.grid(alpha=0.25)
        for text in axis.legend(fontsize=8).get_texts():
            text.set_parse_math(False)
    return png(figure)
