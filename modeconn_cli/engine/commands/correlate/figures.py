"""The scatter matrix, groups, tasks, and dormancy over epochs. Names from outside are never read as mathtext."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from modeconn_cli.engine.commands.correlate.groups import TaskSamples
from modeconn_cli.engine.commands.correlate.join import TASK
from modeconn_cli.engine.results.figures import (
    BLUE,
    GREEN,
    VERMILION,
    WIDE,
    WIDTH,
    Page,
    draw_bands,
    draw_boxes,
    draw_cells,
    lines_of,
    page,
    shades,
    shortened,
    whole_numbers,
)
from modeconn_cli.engine.settings.shared import FigureSettings
from modeconn_cli.engine.statistics import NAMES, Correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 5_000  # more samples are drawn as counts
BINS = 60
MOST = 12  # metrics in a figure
NAMED = 10  # tasks that are named one by one
LARGEST = 1e300  # an axis bears no more
WRITTEN = 12  # metrics whose cells have numbers
TAIL = 4.0  # a range of so many times the middle 80 % of the samples is a heavy tail


def scatter(
    metrics: pd.DataFrame,
    found: Sequence[Correlation],
    flag: pd.Series | None,
    title: str,
    look: FigureSettings,
) -> bytes:
    """Pairs below the diagonal, histograms on it, Spearman and Pearson above it.

    Samples where `flag` is 1 are drawn as crosses of another colour, as long as samples are drawn as points. The ends
    of each metric's range stand at the margins, with its scale where that is not linear.
    """
    if flag is not None and len(metrics) <= POINTS:
        title += f"; crosses: {shortened(str(flag.name))}"
    scaled = [Scaled(metrics[name]) for name in metrics.columns[:MOST]]
    count = max(len(scaled), 1)
    width = max(WIDTH, 1.0 * count + 0.5)
    side = (width - 0.7) / count
    # Margins by hand: a layout engine takes seconds for 64 panels.
    with page(look, title, count, count, width=width, height=side + 0.5 / count, layout=None) as drawn:
        tall = drawn.figure.get_size_inches()[1]
        lines = 1 - (0.16 * title_lines(drawn) + 0.12) / tall
        drawn.figure.subplots_adjust(
            left=0.62 / width, right=1 - 0.08 / width, bottom=0.38 / tall, top=lines, wspace=0.08, hspace=0.08
        )
        correlation = {(c.metric_a, c.metric_b): c for c in found}
        flagged = None if flag is None else flag.to_numpy() == 1
        for (i, y), (j, x) in product(enumerate(scaled), repeat=2):
            axis = drawn.panels[i * count + j]
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(True)
            if i == j:
                draw_spread(axis, x)
            elif i < j:
                draw_correlation(axis, correlation[y.name, x.name])
            elif len(metrics) > POINTS:
                draw_counts(axis, x, y)
            else:
                draw_points(axis, x, y, flagged)
            if j == 0:
                axis.set_ylabel(y.label, fontsize=5.5, parse_math=False)
            if i == count - 1:
                axis.set_xlabel(x.label, fontsize=5.5, parse_math=False)
    return drawn.content


def title_lines(drawn: Page) -> int:
    """How many lines a page's title has."""
    return drawn.figure.get_suptitle().count("\n") + 1


class Scaled:
    """A metric [N] from 0 to 1 along its axis, and the bin of each value; NaN and -1 for what is not finite.

    Of a heavy tail a linear axis shows a line of dots: it is logarithmic where all values are positive, and shows
    ranks elsewhere.
    """

    def __init__(self, metric: pd.Series) -> None:
        values = metric.to_numpy(np.float64)
        finite = np.isfinite(values)
        known = values[finite]
        low, high = (known.min(), known.max()) if finite.any() else (0.0, 1.0)
        self.scale = _scale(known)
        if self.scale == "log":
            values = np.log(np.where(finite, values, np.nan))
        elif self.scale == "rank":
            values = np.where(finite, rankdata(values, nan_policy="omit"), np.nan)
        drawn = values[finite]
        least, most = (drawn.min(), drawn.max()) if finite.any() else (0.0, 1.0)
        # Halves, as the difference of the largest numbers would overflow.
        width = most / 2 - least / 2
        self.units = np.where(finite, values / 2 - least / 2, np.nan) / (width or 1.0)
        spread = self.units[finite]
        if self.scale == "rank":  # ranks have no spread to show
            spread = (known / 2 - low / 2) / ((high / 2 - low / 2) or 1.0)
        self.counts = np.bincount((spread * (BINS - 1e-9)).astype(np.int64), minlength=BINS)
        self.bins = np.where(finite, self.units * (BINS - 1e-9), -1).astype(np.int8)
        self.name = str(metric.name)
        kind = "" if self.scale == "linear" else f" ({self.scale})"
        self.label = f"{shortened(self.name)}{kind}\n{low:.3g} … {high:.3g}"


def _scale(known: np.ndarray) -> str:
    """How an axis shows the finite values: linear, log or rank."""
    if len(known) < 10:
        return "linear"
    low, lower, upper, high = np.quantile(known / 2, (0, 0.1, 0.9, 1))
    if high - low <= TAIL * (upper - lower):
        return "linear"
    return "log" if low > 0 else "rank"


def draw_spread(axis: Axes, x: Scaled) -> None:
    """How many samples have which value; on a logarithmic scale where the axis beside it shows ranks."""
    axis.stairs(np.log1p(x.counts) if x.scale == "rank" else x.counts, fill=True, color=BLUE)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)


def draw_counts(axis: Axes, x: Scaled, y: Scaled) -> None:
    """How many samples lie in each cell of the plane, in shades of their logarithm."""
    both = (x.bins >= 0) & (y.bins >= 0)
    cells = BINS * y.bins[both].astype(np.int64) + x.bins[both]
    counts = np.bincount(cells, minlength=BINS * BINS).reshape(BINS, BINS)
    shown = np.log1p(np.where(counts > 0, counts, np.nan))
    axis.imshow(shown, origin="lower", aspect="auto", cmap="viridis", interpolation="nearest")
    axis.grid(visible=False)


def draw_points(axis: Axes, x: Scaled, y: Scaled, flagged: np.ndarray | None = None) -> None:
    """A dot per sample; flagged ones are crosses. As pixels also in PDF: thousands of them in tens of panels."""
    size = 1.6 if len(x.units) <= POINTS // 2 else 1.0
    # In units of the ranges: no axis of its own has to bear 1e300.
    axis.plot(x.units, y.units, ".", markersize=size, markeredgewidth=0, color=BLUE, rasterized=True)
    if flagged is not None:
        those = x.units[flagged], y.units[flagged]
        axis.plot(*those, "x", markersize=2.2, markeredgewidth=0.5, color=VERMILION, rasterized=True)
    axis.set_xlim(-0.03, 1.03)
    axis.set_ylim(-0.03, 1.03)


def draw_correlation(axis: Axes, found: Correlation) -> None:
    """Spearman's and Pearson's correlation in numbers, on a ground as strong as the former."""
    from matplotlib.colors import to_rgba

    spearman, pearson = (
        "n/a" if value is None else f"{value:+.2f}" for value in (found.spearman, found.pearson)
    )
    how: dict[str, Any] = {"ha": "center", "va": "center", "transform": axis.transAxes}
    axis.text(0.5, 0.62, f"ρ {spearman}", fontsize=7.5, **how)
    axis.text(0.5, 0.3, f"r {pearson}", fontsize=6, **how)
    strength = found.spearman or 0.0
    axis.set_facecolor(to_rgba(VERMILION if strength > 0 else BLUE, 0.5 * abs(strength)))
    axis.grid(visible=False)


def scores(
    metrics: Sequence[str], ranks: np.ndarray, shares: np.ndarray, k: int, title: str, look: FigureSettings
) -> bytes:
    """Rank correlations of all metrics and the share of the hardest k that they have in common, [M, M] each."""
    count = len(metrics)
    side, written = max(2.2, 0.17 * count + 0.8), count <= WRITTEN
    with page(look, title, 2, width=max(WIDTH, side + 1.4), height=side) as drawn:
        panels = zip(drawn.panels, (ranks, shares), (-1.0, 0.0), strict=True)
        words = ("Spearman, hard ends together", f"share of the hardest {k:,} in common")
        for (axis, values, low), said in zip(panels, words, strict=True):
            image = draw_cells(axis, values, low=low, high=1.0, written=written, form=".2f", size=5.0)
            axis.set_xticks(
                range(count), [shortened(name) for name in metrics], rotation=90, parse_math=False
            )
            axis.set_yticks(range(count), [shortened(name) for name in metrics], parse_math=False)
            axis.tick_params(labelsize=5.5)
            drawn.figure.colorbar(image, ax=axis, label=said).outline.set_visible(False)
    return drawn.content


def groups(
    found: Mapping[str, pd.DataFrame],
    metrics: Sequence[str],
    negative: Collection[str],
    title: str,
    look: FigureSettings,
) -> bytes:
    """Mean and standard deviation of each metric, a column of panels per kind of group: key -> the groups by it.

    Bars of metrics that no sample has a `negative` value of end at zero.
    """
    names = list(metrics[:MOST])
    width = WIDTH if len(found) == 1 else WIDE
    with page(look, title, len(names), len(found), width=width, height=1.3) as drawn:
        for k, (key, group) in enumerate(found.items()):
            for name, axis in zip(names, drawn.panels[k :: len(found)], strict=True):
                draw_group(axis, group, key, name, floor=None if name in negative else 0.0)
    return drawn.content


def draw_group(axis: Axes, group: pd.DataFrame, key: str, metric: str, floor: float | None = None) -> None:
    """Mean and standard deviation of one metric by the groups of `key`: `by_class` of `api.read` on an output_dir of
    `mcx correlate`, by `class_id`, or another of its tables `by_…`. Bars end at `floor`; a few groups are named.
    """
    mean, sd = group[f"{metric}_mean"], group[f"{metric}_sd"].fillna(0)
    shown = np.maximum(mean.abs(), sd) < LARGEST  # the axis has to hold both together
    drawn = pd.concat([group[key], mean, sd], axis=1)[shown].to_numpy().T
    below = drawn[2] if floor is None else np.clip(drawn[1] - floor, 0, drawn[2])
    axis.errorbar(
        drawn[0],
        drawn[1],
        [below, drawn[2]],
        fmt="o",
        color=BLUE,
        ecolor="0.6",
        elinewidth=0.8,
        capsize=1.5,
        markersize=2.5,
    )
    whole_numbers(axis, key)
    if "class_name" in group and len(group) <= NAMED:
        names = [shortened(str(name), 12) for name in group["class_name"]]
        axis.set_xticks(group[key].tolist(), names, rotation=30, ha="right", parse_math=False)
    axis.set_ylabel(f"{shortened(metric, 18)}\nmean ± sd", parse_math=False)


def tasks(found: Sequence[TaskSamples], title: str, look: FigureSettings) -> bytes:
    """When the samples of each task were seen, and the quantiles of each metric by task."""
    names = list(found[0].metrics)[: MOST - 1]
    seen = [task for task in found if task.first_epoch is not None and task.last_epoch is not None]
    count = len(names) + bool(seen)
    columns = 1 if count <= 3 else 2
    rows = -(-count // columns)
    with page(look, title, rows, columns, width=WIDTH if columns == 1 else WIDE, height=1.7) as drawn:
        panels = list(drawn.panels)
        for spare in panels[count:]:
            spare.set_axis_off()
        if seen:
            draw_exposures(panels.pop(0), seen)
        for axis, name in zip(panels, names, strict=False):
            draw_boxes(axis, [task.task for task in found], [task.metrics[name] for task in found])
            whole_numbers(axis, "task")
            axis.set_ylabel(shortened(name), parse_math=False)
    return drawn.content


def draw_exposures(axis: Axes, seen: Sequence[TaskSamples]) -> None:
    """A line per task, from the first epoch that its samples were seen in to the last."""
    how: dict[str, Any] = {"textcoords": "offset points", "fontsize": 5.5, "ha": "right"}
    for task in seen:
        ends, heights = np.array([task.first_epoch, task.last_epoch]), [task.task, task.task]
        axis.plot(ends, heights, color=BLUE, linewidth=2.5, marker="|")
        if len(seen) <= NAMED:
            words = f"{task.samples:,} samples, {task.times_seen:.3g} times"
            axis.annotate(words, (float(ends[1]), task.task), (0, 3), **how)
    axis.margins(y=0.2)
    whole_numbers(axis, "epoch of training, from 0")
    axis.set_yticks([task.task for task in seen][:: -(-len(seen) // 8)])
    axis.set_ylabel("task: first to last exposure")
    axis.invert_yaxis()


def evolution(table: pd.DataFrame, flag: str | None, title: str, look: FigureSettings) -> bytes:
    """Mean and quantiles of the dormant proportions over epochs, and the mean of every task; a panel per proportion."""
    names = list(table["metric"].unique())
    with page(look, title, len(names), height=2.2) as drawn:
        for axis, name in zip(drawn.panels, names, strict=True):
            draw_evolution(axis, table[(table["metric"] == name) & (table["samples"] > 0)], flag)
            axis.set_ylabel(shortened(name), parse_math=False)
    return drawn.content


def _records(rows: pd.DataFrame) -> list[dict[str, float | None]]:
    return cast("list[dict[str, float | None]]", rows[[*NAMES]].to_dict("records"))


def draw_evolution(axis: Axes, found: pd.DataFrame, flag: str | None = None) -> None:
    """One dormant proportion over epochs: of all samples, of those with a `flag` against the others, of every task.

    `found` are the rows of one `metric` of `evolution` of `api.read` on an output_dir of `mcx correlate`.
    """
    tasks = sorted(found[TASK].dropna().unique())
    rows = found[found[TASK].isna()]
    if len(rows):
        draw_bands(axis, rows["epoch"].tolist(), _records(rows), BLUE)
    lines = [("mean", "mean", BLUE)]
    if flag is not None:
        lines.append(("flagged_mean", f"{shortened(flag)}: yes", VERMILION))
        lines.append(("unflagged_mean", f"{shortened(flag)}: no", GREEN))
    for number, (column, words, colour) in enumerate(lines):
        axis.plot(rows["epoch"], rows[column].astype(float), color=colour, label=words, **lines_of(number))
    for k, (task, shade) in enumerate(zip(tasks, shades(len(tasks)), strict=True)):
        own = found[found[TASK] == task]
        named = len(tasks) <= NAMED or task in (tasks[0], tasks[-1])  # of many the first and the last
        axis.plot(
            own["epoch"], own["mean"], color=shade, linewidth=0.8, label=f"task {task}" if named else None,
            **lines_of(k),
        )  # fmt: skip
    whole_numbers(axis, "completed epochs")
