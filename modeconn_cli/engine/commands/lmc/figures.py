"""Figures of linear mode connectivity: lines between branches, barriers over k1 and k2, barriers over distance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modeconn_cli.engine.commands.lmc.pairs import STABLE, Pair, PairResult
from modeconn_cli.engine.paths.barriers import HEADLINE
from modeconn_cli.engine.results.figures import (
    DASHES,
    GREEN,
    MARKERS,
    WIDE,
    WIDTH,
    colours,
    draw_cells,
    lines_of,
    page,
    shades,
    whole_numbers,
)
from modeconn_cli.engine.settings.shared import FigureSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

UNITS = {"loss": "nats", "error": "points"}
K1 = "k1 (epoch of the branch)"
WRITTEN = 8  # columns of a heat map up to which cells hold their number
NAMED = 12  # lines that a legend names


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


def story(pairs: Sequence[Pair], title: str, look: FigureSettings) -> bytes:
    """The lines of every k1 at the largest k2, the loss barrier against k1, and the error's rise against k1."""
    results = [pair.result for pair in pairs]
    with page(look, title, 3) as drawn:
        lines, loss, error = drawn.panels
        draw_lines(lines, pairs)
        draw_against_k1(loss, results, MAPS["barrier_loss_test"])
        draw_against_k1(error, results, barrier_of("sup_minus_mean", "error_test"))
        low, high = error.get_ylim()
        error.set_ylim(min(low, -0.2), max(high, 1.5 * STABLE))  # the limit is in view
        below = error.get_ylim()[0], STABLE
        error.axhspan(
            *below, facecolor=GREEN, edgecolor=GREEN, alpha=0.2, linewidth=0, hatch="...",
            label=f"stable: below {STABLE:g} points"
        )  # fmt: skip
    return drawn.content


def maps(results: Sequence[PairResult], title: str, look: FigureSettings) -> Iterator[bytes]:
    """The heat maps of MAPS, in that order."""
    rows, columns = _grid(results)
    width, height = max(WIDTH, 1.4 + 0.5 * len(columns)), max(1.6, 0.7 + 0.3 * len(rows))
    for quantity in MAPS.values():
        with page(look, title, width=width, height=height) as drawn:
            image = draw_map(drawn.panels[0], results, quantity)
            drawn.figure.colorbar(image, ax=drawn.panels[0], label=_broken(quantity.title))
        yield drawn.content


def report(
    series: Mapping[str, Sequence[PairResult]], barrier: Quantity, title: str, look: FigureSettings
) -> bytes:
    """Four panels per series: heat maps of barrier and distance, barrier against k1 and against distance."""
    with page(look, title, 2 * len(series), 2, width=WIDE) as drawn:
        for k, (name, results) in enumerate(series.items()):
            upper, right, lower, last = drawn.panels[4 * k : 4 * k + 4]
            for axis, quantity in ((upper, barrier), (right, DISTANCE)):
                image = draw_map(axis, results, quantity)
                drawn.figure.colorbar(image, ax=axis, label=_broken(quantity.title))
            draw_against_k1(lower, results, barrier)
            draw_against_distance(last, results, barrier)
            upper.set_title(name, loc="left", fontweight="bold", parse_math=False)
    return drawn.content


def across(
    series: Mapping[str, Sequence[PairResult]], barrier: Quantity, title: str, look: FigureSettings
) -> bytes:
    """All series in one frame: barrier against k1 at the largest k2 of each, and barrier against distance."""
    with page(look, title, 2) as drawn:
        upper, lower = drawn.panels
        for k, ((name, results), colour) in enumerate(zip(series.items(), colours(len(series)), strict=True)):
            furthest = {pair.k1: barrier.of(pair) for pair in sorted(results, key=_k1_then_k2)}
            upper.plot(list(furthest), list(furthest.values()), color=colour, label=name, **lines_of(k))
            x, y = ([quantity.of(pair) for pair in results] for quantity in (DISTANCE, barrier))
            lower.scatter(x, y, s=12, color=colour, marker=MARKERS[k % len(MARKERS)])
        for axis in (upper, lower):
            axis.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
            axis.set_ylabel(_broken(barrier.title))
        whole_numbers(upper, K1)
        lower.set_xlabel(DISTANCE.title)
    return drawn.content


def _broken(title: str) -> str:
    """A title on two lines, beside a panel."""
    return title.replace(" (", "\n(")


def _k1_then_k2(pair: PairResult) -> tuple[int, int]:
    return pair.k1, pair.k2


def draw_lines(axis: Axes, pairs: Sequence[Pair]) -> None:
    """Test loss along the line of every k1, at its largest k2, above the straight line between its ends."""
    furthest = {pair.result.k1: pair for pair in sorted(pairs, key=lambda pair: _k1_then_k2(pair.result))}
    for number, ((k1, pair), colour) in enumerate(zip(furthest.items(), shades(len(furthest)), strict=True)):
        alphas, values = pair.line.alphas, pair.line.losses_test
        straight = np.interp(alphas, [0, 1], values[[0, -1]])
        label = f"k1 = {k1}, k2 = {pair.result.k2}: barrier {pair.result.barrier():.3f}"
        axis.plot(
            alphas, values, color=colour, linestyle=DASHES[number % len(DASHES)],
            label=label if number < NAMED else None,
        )  # fmt: skip
        above = values > straight
        axis.fill_between(
            alphas, straight, values, where=above, interpolate=True, color=colour, alpha=0.12, linewidth=0
        )
        axis.plot(alphas, straight, color=colour, linewidth=0.7, linestyle=":")
        axis.plot([0, 1], values[[0, -1]], "o", color=colour, clip_on=False, zorder=3)
    axis.set_xlim(0, 1)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("α (0: main branch, 1: branch)")
    axis.set_ylabel("test cross-entropy (nats)")


def draw_against_k1(axis: Axes, results: Sequence[PairResult], quantity: Quantity) -> None:
    """One line per k2."""
    all_k2 = _grid(results)[1]
    for number, (k2, colour) in enumerate(zip(all_k2, shades(len(all_k2)), strict=True)):
        chosen = [pair for pair in sorted(results, key=_k1_then_k2) if pair.k2 == k2]
        x, y = [pair.k1 for pair in chosen], [quantity.of(pair) for pair in chosen]
        label = f"k2 = {k2}" if len(all_k2) <= NAMED else None
        axis.plot(x, y, color=colour, label=label, **lines_of(number))
    axis.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
    axis.set_ylabel(_broken(quantity.title))
    whole_numbers(axis, K1)


def draw_against_distance(axis: Axes, results: Sequence[PairResult], quantity: Quantity) -> None:
    """A point per pair, its colour and its marker by k1."""
    rows = _grid(results)[0]
    for number, (k1, colour) in enumerate(zip(rows, shades(len(rows)), strict=True)):
        own = [pair for pair in results if pair.k1 == k1]
        x, y = [pair.distance for pair in own], [quantity.of(pair) for pair in own]
        label = f"k1 = {k1}" if len(rows) <= NAMED else None
        axis.scatter(x, y, s=14, color=colour, marker=MARKERS[number % len(MARKERS)], label=label)
    axis.set_xlabel(DISTANCE.title)
    axis.set_ylabel(_broken(quantity.title))


def draw_map(axis: Axes, results: Sequence[PairResult], quantity: Quantity) -> AxesImage:
    """A heat map over (k1, k2); a cell says its value where there is room. Returns the image, for a colour bar."""
    rows, columns = _grid(results)
    grid = np.full((len(rows), len(columns)), np.nan)
    for pair in results:
        grid[rows.index(pair.k1), columns.index(pair.k2)] = quantity.of(pair)
    image = draw_cells(axis, grid, written=len(columns) <= WRITTEN)
    axis.set_xticks(range(len(columns)), map(str, columns))
    axis.set_yticks(range(len(rows)), map(str, rows))
    axis.set_xlabel("k2 (further epochs)")
    axis.set_ylabel(K1)
    return image


def _grid(results: Sequence[PairResult]) -> tuple[list[int], list[int]]:
    return sorted({pair.k1 for pair in results}), sorted({pair.k2 for pair in results})
