"""Figures of linear mode connectivity: lines between branches, barriers over k1 and k2, barriers over distance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modeconn_cli.engine.commands.lmc.pairs import STABLE, Pair, PairResult
from modeconn_cli.engine.paths.barriers import HEADLINE
from modeconn_cli.engine.results.figures import COLOURS, colours, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNITS = {"loss": "nats", "error": "points"}
K1 = "k1 (epoch of the branch)"


@dataclass(frozen=True)
class Quantity:
    """A number that every pair has, and what axes call it."""

    title: str
    of: Callable[[PairResult], float]


DISTANCE = Quantity("L2 distance", lambda pair: pair.distance)


def barrier_of(definition: str, series: str) -> Quantity:
    """A barrier: `test loss barrier (max_gap, nats)`."""
    kind, split = series.split("_")
    title = f"{split} {kind} barrier ({definition}, {UNITS[kind]})"
    return Quantity(title, lambda pair: pair.barrier(definition, series))


# Drawn over k1 and k2 into files of these names.
MAPS = {
    "barrier_loss_test": barrier_of(HEADLINE, "loss_test"),
    "barrier_error_test": barrier_of(HEADLINE, "error_test"),
    "distance": DISTANCE,
}


def story(title: str, pairs: Sequence[Pair]) -> bytes:
    """The lines of every k1 at the largest k2, the loss barrier against k1, and the error's rise against k1."""
    figure, (lines, loss, error) = _panels(14, 4.2, 1, 3)
    _lines(lines, pairs)
    results = [pair.result for pair in pairs]
    _against_k1(loss, results, MAPS["barrier_loss_test"])
    _against_k1(error, results, barrier_of("sup_minus_mean", "error_test"))
    low, high = error.get_ylim()
    error.set_ylim(min(low, -0.2), max(high, 1.5 * STABLE))  # the limit is in view
    below = error.get_ylim()[0], STABLE
    error.axhspan(*below, color=COLOURS[2], alpha=0.12, linewidth=0, label="stable: below 2 points")
    error.legend(fontsize=8)
    figure.suptitle(title, parse_math=False)
    return png(figure)


def maps(results: Sequence[PairResult]) -> Iterator[bytes]:
    """The heat maps of MAPS, in that order."""
    rows, columns = _grid(results)
    for quantity in MAPS.values():
        figure, (axis,) = _panels(2.2 + 0.9 * len(columns), 1.8 + 0.55 * len(rows), 1, 1)
        _heat(figure, axis, results, quantity)
        yield png(figure)


def report(series: Mapping[str, Sequence[PairResult]], barrier: Quantity) -> bytes:
    """A row of four panels per series: heat maps of barrier and distance, barrier against k1 and against distance."""
    figure, panels = _panels(17, 3.8 * len(series), len(series), 4)
    for (name, results), row in zip(series.items(), panels.reshape(-1, 4), strict=True):
        _heat(figure, row[0], results, barrier, f"{name}: {barrier.title}")
        _heat(figure, row[1], results, DISTANCE)
        _against_k1(row[2], results, barrier)
        x, y = ([quantity.of(pair) for pair in results] for quantity in (DISTANCE, barrier))
        points = row[3].scatter(x, y, c=[pair.k1 for pair in results], cmap="viridis", s=24)
        _label(row[3], DISTANCE.title, barrier.title)
        figure.colorbar(points, ax=row[3], label="k1")
    return png(figure)


def across(series: Mapping[str, Sequence[PairResult]], barrier: Quantity) -> bytes:
    """All series in one frame: barrier against k1 at the largest k2 of each, and barrier against distance."""
    figure, (left, right) = _panels(11, 4.2, 1, 2)
    for (name, results), colour in zip(series.items(), colours(len(series)), strict=True):
        furthest = {pair.k1: barrier.of(pair) for pair in sorted(results, key=_k1_then_k2)}
        left.plot(list(furthest), list(furthest.values()), "o-", color=colour, label=name, markersize=4)
        x, y = ([quantity.of(pair) for pair in results] for quantity in (DISTANCE, barrier))
        right.scatter(x, y, s=18, color=colour)
    for axis, label in ((left, K1), (right, DISTANCE.title)):
        axis.axhline(0, color="0.5", linewidth=1, linestyle=":")
        _label(axis, label, barrier.title)
    left.legend(fontsize=8)
    return png(figure)


def _panels(width: float, height: float, rows: int, columns: int) -> tuple[Figure, Any]:
    """A figure in inches, and its axes [rows · columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def _label(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.25)


def _k1_then_k2(pair: PairResult) -> tuple[int, int]:
    return pair.k1, pair.k2


def _lines(axis: Axes, pairs: Sequence[Pair]) -> None:
    """Test loss along the line of every k1, at its largest k2, above the straight line between its ends."""
    furthest = {pair.result.k1: pair for pair in sorted(pairs, key=lambda pair: _k1_then_k2(pair.result))}
    for (k1, pair), colour in zip(furthest.items(), _shades(len(furthest)), strict=True):
        alphas, values = pair.line.alphas, pair.line.losses_test
        straight = np.interp(alphas, [0, 1], values[[0, -1]])
        label = f"k1 = {k1}, k2 = {pair.result.k2}: barrier {pair.result.barrier():.3f}"
        axis.plot(alphas, values, color=colour, label=label)
        above = values > straight
        axis.fill_between(alphas, straight, values, where=above, color=colour, alpha=0.12, linewidth=0)
        axis.plot(alphas, straight, color=colour, linewidth=0.8, linestyle=":")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.4 * max(axis.get_ylim()[1], 1e-9))  # the legend stands above the lines
    _label(axis, "α (0: main branch, 1: branch)", "test cross-entropy (nats)")
    axis.legend(fontsize=8)


def _against_k1(axis: Axes, results: Sequence[PairResult], quantity: Quantity) -> None:
    """One line per k2."""
    from matplotlib.ticker import MaxNLocator

    all_k2 = _grid(results)[1]
    for k2, colour in zip(all_k2, _shades(len(all_k2)), strict=True):
        chosen = [pair for pair in sorted(results, key=_k1_then_k2) if pair.k2 == k2]
        x, y = [pair.k1 for pair in chosen], [quantity.of(pair) for pair in chosen]
        axis.plot(x, y, "o-", color=colour, label=f"k2 = {k2}", markersize=4)
    axis.axhline(0, color="0.5", linewidth=1, linestyle=":")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axis, K1, quantity.title)
    if len(all_k2) <= 12:
        axis.legend(fontsize=8)


def _heat(
    figure: Figure, axis: Axes, results: Sequence[PairResult], quantity: Quantity, title: str = ""
) -> None:
    """A heat map over (k1, k2); a cell says its value where there is room."""
    rows, columns = _grid(results)
    grid = np.full((len(rows), len(columns)), np.nan)
    for pair in results:
        grid[rows.index(pair.k1), columns.index(pair.k2)] = quantity.of(pair)
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
    axis.set_ylabel(K1)
    axis.set_title(title or quantity.title, fontsize=10, parse_math=False)
    figure.colorbar(image, ax=axis)


def _grid(results: Sequence[PairResult]) -> tuple[list[int], list[int]]:
    return sorted({pair.k1 for pair in results}), sorted({pair.k2 for pair in results})


def _shades(count: int) -> list[Any]:
    """Colours from dark to light, for what has an order."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * k / max(count - 1, 1)) for k in range(count)]
