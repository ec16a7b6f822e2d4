"""Figures of linear mode connectivity: lines between branches, barriers over k1 and k2, barriers over distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modeconn_cli.engine.commands.lmc.pairs import STABLE, Pair, PairResult
from modeconn_cli.engine.paths.barriers import HEADLINE
from modeconn_cli.engine.results.figures import COLOURS, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAPS = ("barrier_loss_test", "barrier_error_test", "distance")  # over k1 and k2
UNITS = {"loss": "nats", "error": "points"}
Value = Callable[[PairResult], float]


def title_of(definition: str, series: str) -> str:
    """`test loss barrier (max_gap, nats)`."""
    kind, split = series.split("_")
    return f"{split} {kind} barrier ({definition}, {UNITS[kind]})"


def story(title: str, pairs: Sequence[Pair], definition: str = HEADLINE) -> bytes:
    """The lines of every k1 at the largest k2, the loss barrier against k1, and the error's rise against k1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.2), layout="constrained")
    lines, loss, error = figure.subplots(1, 3)
    _lines(lines, pairs, definition)
    results = [pair.result for pair in pairs]
    _against_k1(loss, results, lambda pair: pair.barrier(definition, "loss_test"))
    loss.set_ylabel(title_of(definition, "loss_test"))
    _against_k1(error, results, lambda pair: pair.barrier("sup_minus_mean", "error_test"))
    error.axhspan(
        *_below(error, STABLE), color=COLOURS[2], alpha=0.12, linewidth=0, label="stable: below 2 points"
    )
    error.set_ylabel(title_of("sup_minus_mean", "error_test"))
    error.legend(fontsize=8)
    figure.suptitle(title, parse_math=False)
    return png(figure)


def maps(results: Sequence[PairResult], definition: str = HEADLINE) -> dict[str, bytes]:
    """Heat maps over k1 and k2 by name: the barriers of test loss and test error, and the distance."""
    from matplotlib.figure import Figure

    def barrier(series: str) -> Value:
        return lambda pair: pair.barrier(definition, series)

    out = {}
    for name in MAPS:
        title, value = "L2 distance", lambda pair: pair.distance
        if name != "distance":
            series = name.removeprefix("barrier_")
            title, value = title_of(definition, series), barrier(series)
        rows, columns = _grid(results)
        figure = Figure(figsize=(2.2 + 0.9 * len(columns), 1.8 + 0.55 * len(rows)), layout="constrained")
        _heat(figure, figure.subplots(), results, value)
        figure.axes[0].set_title(title, fontsize=10)
        out[name] = png(figure)
    return out


def report(series: Mapping[str, Sequence[PairResult]], definition: str, which: str) -> bytes:
    """A row of four panels per series: heat maps of barrier and distance, barrier against k1 and against distance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17, 3.8 * len(series)), layout="constrained")
    panels = figure.subplots(len(series), 4, squeeze=False)

    def barrier(pair: PairResult) -> float:
        return pair.barrier(definition, which)

    for (name, results), row in zip(series.items(), panels, strict=True):
        _heat(figure, row[0], results, barrier)
        row[0].set_title(f"{name}: {title_of(definition, which)}", fontsize=10, parse_math=False)
        _heat(figure, row[1], results, lambda pair: pair.distance)
        row[1].set_title("L2 distance", fontsize=10)
        _against_k1(row[2], results, barrier)
        row[2].set_ylabel(title_of(definition, which))
        _scatter(row[3], results, barrier)
        row[3].set_ylabel(title_of(definition, which))
    return png(figure)


def across(series: Mapping[str, Sequence[PairResult]], definition: str, which: str) -> bytes:
    """All series in one frame: barrier against k1 at the largest k2 of each, and barrier against distance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, results) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        furthest = {pair.k1: pair for pair in sorted(results, key=lambda pair: (pair.k1, pair.k2))}
        values = [pair.barrier(definition, which) for pair in furthest.values()]
        left.plot(list(furthest), values, "o-", color=colour, label=name, markersize=4)
        distances = [pair.distance for pair in results]
        right.scatter(distances, [pair.barrier(definition, which) for pair in results], s=18, color=colour)
    left.set_xlabel("k1 (epoch of the branch)")
    right.set_xlabel("L2 distance")
    for axis in (left, right):
        axis.set_ylabel(title_of(definition, which))
        axis.axhline(0, color="0.5", linewidth=1, linestyle=":")
        axis.grid(alpha=0.25)
    left.legend(fontsize=8)
    return png(figure)


def _lines(axis: Axes, pairs: Sequence[Pair], definition: str) -> None:
    """Test loss along the line of every k1, at its largest k2, above the straight line between its ends."""
    furthest = {
        pair.result.k1: pair for pair in sorted(pairs, key=lambda pair: (pair.result.k1, pair.result.k2))
    }
    for (k1, pair), colour in zip(furthest.items(), _shades(len(furthest)), strict=True):
        at, values = np.array(pair.line.alphas), np.array(pair.line.losses_test)
        straight = np.interp(at, [0, 1], values[[0, -1]])
        barrier = pair.result.barrier(definition)
        axis.plot(at, values, color=colour, label=f"k1 = {k1}, k2 = {pair.result.k2}: barrier {barrier:.3f}")
        above = values > straight
        axis.fill_between(at, straight, values, where=above, color=colour, alpha=0.12, linewidth=0)
        axis.plot(at, straight, color=colour, linewidth=0.8, linestyle=":")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.4 * max(axis.get_ylim()[1], 1e-9))  # the legend stands above the lines
    axis.set_xlabel("α (0: main branch, 1: branch)")
    axis.set_ylabel("test cross-entropy (nats)")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)


def _against_k1(axis: Axes, results: Sequence[PairResult], value: Value) -> None:
    """One line per k2."""
    from matplotlib.ticker import MaxNLocator

    all_k2 = sorted({pair.k2 for pair in results})
    for k2, colour in zip(all_k2, _shades(len(all_k2)), strict=True):
        chosen = sorted((pair for pair in results if pair.k2 == k2), key=lambda pair: pair.k1)
        axis.plot(
            [p.k1 for p in chosen],
            [value(p) for p in chosen],
            "o-",
            color=colour,
            label=f"k2 = {k2}",
            markersize=4,
        )
    axis.axhline(0, color="0.5", linewidth=1, linestyle=":")
    axis.set_xlabel("k1 (epoch of the branch)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    if len(all_k2) <= 12:
        axis.legend(fontsize=8)


def _scatter(axis: Axes, results: Sequence[PairResult], value: Value) -> None:
    """Barrier against distance, coloured by k1."""
    points = axis.scatter(
        [pair.distance for pair in results],
        [value(pair) for pair in results],
        c=[pair.k1 for pair in results],
        cmap="viridis",
        s=24,
    )
    axis.set_xlabel("L2 distance")
    axis.grid(alpha=0.25)
    if axis.figure is not None:
        axis.figure.colorbar(points, ax=axis, label="k1")


def _heat(figure: Figure, axis: Axes, results: Sequence[PairResult], value: Value) -> None:
    """A heat map over (k1, k2); a cell says its value where there is room."""
    rows, columns = _grid(results)
    grid = np.full((len(rows), len(columns)), np.nan)
    for pair in results:
        grid[rows.index(pair.k1), columns.index(pair.k2)] = value(pair)
    image = axis.imshow(grid, cmap="viridis", aspect="auto")
    if len(columns) <= 8:
        low, high = image.get_clim()
        middle = low + 0.6 * (high - low)
        for i, j in np.argwhere(np.isfinite(grid)):
            colour = "white" if grid[i, j] < middle else "black"
            axis.text(j, i, f"{grid[i, j]:.3g}", ha="center", va="center", color=colour, fontsize=9)
    axis.set_xticks(range(len(columns)), map(str, columns))
    axis.set_yticks(range(len(rows)), map(str, rows))
    axis.set_xlabel("k2 (further epochs)")
    axis.set_ylabel("k1 (epoch of the branch)")
    figure.colorbar(image, ax=axis)


def _grid(results: Sequence[PairResult]) -> tuple[list[int], list[int]]:
    return sorted({pair.k1 for pair in results}), sorted({pair.k2 for pair in results})


def _below(axis: Axes, limit: float) -> tuple[float, float]:
    """The span of an axis that lies below a limit, with the limit in view."""
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, -0.2), max(high, 1.5 * limit))
    return axis.get_ylim()[0], limit


def _shades(count: int) -> list[Any]:
    """Colours from dark to light, for what has an order."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * k / max(count - 1, 1)) for k in range(count)]
