"""The scatter matrix, groups, tasks, and dormancy over epochs. Names from outside are never read as mathtext."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modeconn_cli.engine.commands.correlate.evolution import Epoch
from modeconn_cli.engine.commands.correlate.groups import Groups
from modeconn_cli.engine.commands.correlate.tasks import Task
from modeconn_cli.engine.errors import one_line
from modeconn_cli.engine.results.figures import COLOURS, bands, png
from modeconn_cli.engine.statistics import Correlation

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


def scatter(
    columns: Mapping[str, np.ndarray], found: Sequence[Correlation], flag: np.ndarray | None = None
) -> bytes:
    """Pairs below the diagonal, histograms on it, Spearman and Pearson above it. Columns [N].

    Samples where `flag` is 1 are drawn in red, as long as samples are drawn as points. The ends of each metric's
    range stand at the margins.
    """
    from matplotlib.figure import Figure

    names = list(columns)[:MOST]
    count = max(len(names), 1)
    figure = Figure(figsize=(1.5 * count + 1.2, 1.5 * count + 0.8))
    panels = figure.subplots(count, count, squeeze=False)
    # Margins by hand: a layout engine takes seconds for 64 panels.
    side = 1.5 * count
    figure.subplots_adjust(
        left=1 / (side + 1.2),
        right=1 - 0.1 / (side + 1.2),
        bottom=0.6 / (side + 0.8),
        top=1 - 0.1 / (side + 0.8),
    )
    binned = {name: _Binned(columns[name]) for name in names}
    values = {(c.metric_a, c.metric_b): c for c in found}
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            axis = panels[i][j]
            axis.set_xticks([])
            axis.set_yticks([])
            if i == j:
                axis.stairs(binned[row].counts, fill=True, color=COLOURS[1])
            elif i > j:
                _pair(axis, binned[column], binned[row], flag)
            else:
                _numbers(axis, values[row, column])
            if j == 0:
                axis.set_ylabel(f"{label(row)}\n{binned[row].range()}", fontsize=7, parse_math=False)
            if i == count - 1:
                axis.set_xlabel(f"{label(column)}\n{binned[column].range()}", fontsize=7, parse_math=False)
    return png(figure)


class _Binned:
    """A column [N] with the bin of each finite value, -1 for the others."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values.astype(np.float64)
        self.finite = np.isfinite(self.values)
        inside = self.values[self.finite]
        self.low, self.high = (float(inside.min()), float(inside.max())) if len(inside) else (0.0, 1.0)
        # Halves, as the difference of the largest numbers would overflow.
        width = self.high / 2 - self.low / 2
        scale = (BINS - 1e-9) / width if width > 0 and np.isfinite((BINS - 1e-9) / width) else 0.0
        self.bins = np.full(len(values), -1, dtype=np.int16)
        self.bins[self.finite] = np.minimum((inside / 2 - self.low / 2) * scale, BINS - 1)
        self.counts = np.bincount(self.bins[self.finite], minlength=BINS)

    def range(self) -> str:
        return f"{self.low:.3g} … {self.high:.3g}"


def _pair(axis: Any, x: _Binned, y: _Binned, flag: np.ndarray | None) -> None:
    both = x.finite & y.finite
    if len(both) <= POINTS:
        # Bounded by hand, in units of the panel: no axis of its own has to bear 1e300.
        size = 2.0 if len(both) <= POINTS // 2 else 1.0
        axis.plot(_unit(x, both), _unit(y, both), ".", markersize=size, markeredgewidth=0, color=COLOURS[1])
        if flag is not None:
            chosen = both & (flag == 1)
            axis.plot(
                _unit(x, chosen),
                _unit(y, chosen),
                ".",
                markersize=1.5 * size,
                markeredgewidth=0,
                color=COLOURS[0],
            )
        axis.set_xlim(-0.03, 1.03)
        axis.set_ylim(-0.03, 1.03)
        return
    cells = BINS * y.bins[both].astype(np.int64) + x.bins[both]
    counts = np.bincount(cells, minlength=BINS * BINS).reshape(BINS, BINS)
    axis.imshow(np.log1p(np.where(counts > 0, counts, np.nan)), origin="lower", aspect="auto", cmap="viridis")


def _unit(column: _Binned, chosen: np.ndarray) -> np.ndarray:
    width = column.high / 2 - column.low / 2
    scaled: np.ndarray = (column.values[chosen] / 2 - column.low / 2) / (width or 1.0)
    return scaled


def _numbers(axis: Any, found: Correlation) -> None:
    from matplotlib.colors import to_rgba

    for name, value, height, size in (
        ("Spearman", found.spearman, 0.6, 9),
        ("Pearson", found.pearson, 0.35, 7),
    ):
        shown = "n/a" if value is None else f"{value:+.2f}"
        axis.text(
            0.5, height, f"{name} {shown}", ha="center", va="center", fontsize=size, transform=axis.transAxes
        )
    spearman = found.spearman or 0.0
    axis.set_facecolor(to_rgba(COLOURS[0] if spearman > 0 else COLOURS[1], 0.5 * abs(spearman)))


def groups(found: Mapping[str, Groups]) -> bytes:
    """Mean and standard deviation of each metric, a column of panels per kind of group."""
    from matplotlib.figure import Figure

    names = list(next(iter(found.values())).statistics)[:MOST]
    figure = Figure(figsize=(4.6 * len(found), 2.2 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), len(found), squeeze=False)
    for (key, group), column in zip(found.items(), panels.T, strict=True):
        for name, axis in zip(names, column, strict=True):
            mean, sd, _ = group.statistics[name]
            # The axis has to hold mean and sd together.
            places, drawn = group.keys[key], np.maximum(np.abs(mean), np.nan_to_num(sd)) < LARGEST
            axis.errorbar(
                places[drawn], mean[drawn], np.nan_to_num(sd[drawn]), fmt=".", color=COLOURS[1],
                ecolor="0.7", elinewidth=1, markersize=4,
            )  # fmt: skip
            axis.set_xlabel(key)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set_ylabel(label(name), parse_math=False)
            axis.grid(alpha=0.25)
    return png(figure)


def tasks(found: Sequence[Task]) -> bytes:
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
        axis = panels.pop(0)
        for task in seen:
            ends, place = [task.first_epoch, task.last_epoch], [task.task, task.task]
            axis.plot(ends, place, color=COLOURS[1], linewidth=3, marker=".")
            if len(seen) <= NAMED:
                words = f"{task.samples:,} samples, {task.times_seen:.3g} times"
                shown = {"textcoords": "offset points", "fontsize": 6, "ha": "right"}
                axis.annotate(words, (task.last_epoch, task.task), (0, 4), **shown)
        axis.margins(y=0.15)
        axis.set_xlabel("epoch of training, from 0")
        axis.set_ylabel("task: first to last exposure")
        axis.invert_yaxis()
        axis.grid(alpha=0.25)
    for axis, name in zip(panels, names, strict=False):
        bands(axis, [task.task for task in found], [task.metrics[name] for task in found], COLOURS[1])
        axis.set_xlabel("task")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_ylabel(label(name), parse_math=False)
        axis.grid(alpha=0.25)
    panels[0].legend(fontsize=7)
    return png(figure)


def evolution(epochs: Sequence[Epoch], flag: str | None) -> bytes:
    """Mean and quantiles of the dormant proportions over epochs, and the mean of every task; a panel per proportion."""
    import matplotlib
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(each.metric for each in epochs))
    figure = Figure(figsize=(5.2 * len(names), 3.8), layout="constrained")
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        rows = [each for each in epochs if each.metric == name and each.samples and each.task is None]
        places = [each.epoch for each in rows]
        if rows:
            bands(axis, places, [each.statistics for each in rows], COLOURS[1])
        lines = {"mean": [each.statistics["mean"] for each in rows]}
        if flag is not None:
            lines[f"{label(flag)}: yes"] = [each.flagged_mean for each in rows]
            lines[f"{label(flag)}: no"] = [each.unflagged_mean for each in rows]
        for (words, means), colour in zip(lines.items(), (COLOURS[1], COLOURS[0], COLOURS[2]), strict=False):
            marks = [np.nan if mean is None else mean for mean in means]
            axis.plot(places, marks, color=colour, marker=".", label=words)
        members = sorted({each.task for each in epochs if each.task is not None})
        for k, task in enumerate(members):
            of_task = [each for each in epochs if each.metric == name and each.samples and each.task == task]
            axis.plot(
                [each.epoch for each in of_task],
                [each.statistics["mean"] for each in of_task],
                color=matplotlib.colormaps["viridis"](k / max(len(members) - 1, 1)),
                linewidth=1,
                marker=".",
                label=f"task {task}" if len(members) <= NAMED or task in (members[0], members[-1]) else None,
            )
        axis.set_xlabel("completed epochs")
        axis.set_ylabel(name)
        axis.grid(alpha=0.25)
        for text in axis.legend(fontsize=8).get_texts():
            text.set_parse_math(False)
    return png(figure)
