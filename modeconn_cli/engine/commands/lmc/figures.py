"""Figures of linear mode connectivity: lines between branches, barriers over k1 and k2, barriers over distance.

Where there are branches of several seeds lines are means with a band of one standard deviation, and cells are means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.lmc import pairs as documents
from modeconn_cli.engine.commands.lmc.pairs import STABLE, Pair, PairResult
from modeconn_cli.engine.errors import InputError, did_you_mean
from modeconn_cli.engine.paths.barriers import HEADLINE, barriers
from modeconn_cli.engine.results.figures import (
    DASHES,
    GREEN,
    MARKERS,
    WIDE,
    WIDTH,
    colours,
    draw_band,
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
LEAST = {"loss": 0.02, "error": 1.0}  # how high an axis of barriers reaches at least: below is nothing to see

DISTANCE, LOSS, RISE = "distance", f"{HEADLINE}_loss_test", "sup_minus_mean_error_test"

# Columns of the table that are drawn over k1 and k2 into files of these names.
MAPS = {"barrier_loss_test": LOSS, "barrier_error_test": f"{HEADLINE}_error_test", "distance": DISTANCE}

# What figures take: a table of pairs as `pairs.table` writes it, or the pairs of a result.
Pairs = pd.DataFrame | Sequence[PairResult]


def titled(column: str) -> str:
    """What axes call a column of the table: `test loss barrier (max_gap, nats)`."""
    if column == DISTANCE:
        return "L2 distance"
    definition, kind, split = column.rsplit("_", 2)
    return f"{split} {kind} barrier ({definition}, {UNITS[kind]})"


def story(pairs: Sequence[Pair], title: str, look: FigureSettings) -> bytes:
    """The lines of every k1 at the largest k2, the loss barrier against k1, and the error's rise against k1."""
    results = [pair.result for pair in pairs]
    with page(look, title, 3) as drawn:
        lines, loss, error = drawn.panels
        draw_lines(lines, pd.concat(map(documents.frame, pairs)))
        draw_against_k1(loss, results, LOSS)
        draw_against_k1(error, results, RISE)
        low, high = error.get_ylim()
        error.set_ylim(min(low, -0.2), max(high, 1.5 * STABLE))  # the limit is in view
        below = error.get_ylim()[0], STABLE
        error.axhspan(
            *below, facecolor=GREEN, edgecolor=GREEN, alpha=0.2, linewidth=0, hatch="...",
            label=f"stable: below {STABLE:g} points"
        )  # fmt: skip
    return drawn.content


def maps(results: Pairs, title: str, look: FigureSettings) -> Iterator[bytes]:
    """The heat maps of MAPS, in that order."""
    table = _table(results)
    rows, columns = table["k1"].nunique(), table["k2"].nunique()
    width, height = max(WIDTH, 1.4 + 0.5 * columns), max(1.6, 0.7 + 0.3 * rows)
    for column in MAPS.values():
        with page(look, title, width=width, height=height) as drawn:
            image = draw_map(drawn.panels[0], table, column)
            drawn.figure.colorbar(image, ax=drawn.panels[0], label=_broken(titled(column)))
        yield drawn.content


def report(series: Mapping[str, Pairs], barrier: str, title: str, look: FigureSettings) -> bytes:
    """Four panels per series: heat maps of barrier and distance, barrier against k1 and against distance."""
    with page(look, title, 2 * len(series), 2, width=WIDE) as drawn:
        for k, (name, results) in enumerate(series.items()):
            upper, right, lower, last = drawn.panels[4 * k : 4 * k + 4]
            for axis, column in ((upper, barrier), (right, DISTANCE)):
                image = draw_map(axis, results, column)
                drawn.figure.colorbar(image, ax=axis, label=_broken(titled(column)))
            draw_against_k1(lower, results, barrier)
            draw_against_distance(last, results, barrier)
            upper.set_title(name, loc="left", fontweight="bold", parse_math=False)
    return drawn.content


def across(series: Mapping[str, Pairs], barrier: str, title: str, look: FigureSettings) -> bytes:
    """All series in one frame: barrier against k1 at the largest k2 of each, and barrier against distance."""
    with page(look, title, 2) as drawn:
        upper, lower = drawn.panels
        for k, ((name, results), colour) in enumerate(zip(series.items(), colours(len(series)), strict=True)):
            table = _table(results, barrier)
            furthest = _spread(_furthest(table), barrier)
            draw_band(upper, furthest["k1"], furthest["mean"], furthest["sd"], colour)
            upper.plot(furthest["k1"], furthest["mean"], color=colour, label=name, **lines_of(k))
            lower.scatter(
                table[DISTANCE], table[barrier], s=12, color=colour, marker=MARKERS[k % len(MARKERS)]
            )
        for axis in (upper, lower):
            _barriers_axis(axis, barrier)
        whole_numbers(upper, K1)
        lower.set_xlabel(titled(DISTANCE))
    return drawn.content


def _broken(title: str) -> str:
    """A title on two lines, beside a panel."""
    return title.replace(" (", "\n(")


def _barriers_axis(axis: Axes, column: str) -> None:
    """Zero, the name of the barrier, and a height that does not make a landscape of rounding."""
    axis.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
    axis.set_ylabel(_broken(titled(column)))
    if column != DISTANCE:
        axis.update_datalim([(0, LEAST[column.rsplit("_", 2)[1]])], updatex=False)
        axis.autoscale_view()


def _table(found: Pairs, *needed: str) -> pd.DataFrame:
    """Pairs as a table, a row each. Raises InputError where a column that is `needed` is missing."""
    table = found if isinstance(found, pd.DataFrame) else documents.as_table(found)
    for column in ("k1", "k2", *needed):
        if column not in table:
            raise InputError(
                f"the table of pairs has no column '{column}'",
                did_you_mean(column, map(str, table.columns))
                or f"it has {', '.join(map(str, table.columns))}",
            )
    return table


def _furthest(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of every k1 at its largest k2."""
    return table[table["k2"] == table.groupby("k1")["k2"].transform("max")]


def _spread(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean and standard deviation over the seeds of every k1 and k2; no mean where a seed has no value."""
    groups = table.groupby(["k1", "k2"], sort=True)[column]
    out: pd.DataFrame = groups.agg(
        mean=lambda values: values.mean(skipna=False), sd=lambda values: values.std(skipna=False)
    ).reset_index()
    return out


def draw_lines(axis: Axes, lines: pd.DataFrame, column: str = "loss_test") -> None:
    """Values along the line of every k1, at its largest k2, above the straight line between its ends.

    `lines` has a row per position, k1, k2 and alpha among its columns: `processed/lines` of `api.read` on an
    output_dir of `mcx lmc run`. Of several seeds, as `pandas.concat` puts those of `branch1`, `branch2` … together, the
    mean is drawn with a band of one standard deviation. `column` is loss_test, loss_train, error_test or error_train.
    """
    for missing in {"k1", "k2", "alpha", column} - {*lines.columns}:
        raise InputError(
            f"the table of lines has no column '{missing}'", did_you_mean(missing, map(str, lines.columns))
        )
    drawn = list(_furthest(lines).groupby("k1"))
    for number, ((k1, own), colour) in enumerate(zip(drawn, shades(len(drawn)), strict=True)):
        seeds = [each.sort_values("alpha") for _, each in own.groupby(_seeds(own), dropna=False)]
        values = pd.concat([each.set_index("alpha")[column] for each in seeds], axis=1).dropna()
        alphas, mean = values.index.to_numpy(float), values.mean(axis=1).to_numpy()
        straight = np.interp(alphas, [0, 1], mean[[0, -1]])
        rises = [barriers(alphas, one)[HEADLINE] or 0.0 for one in values.to_numpy().T]
        rise = f"{np.mean(rises):.3f}" + (f" ± {np.std(rises, ddof=1):.3f}" if len(rises) > 1 else "")
        label = f"k1 = {k1}, k2 = {own['k2'].iloc[0]}: barrier {rise}"
        axis.plot(
            alphas, mean, color=colour, linestyle=DASHES[number % len(DASHES)],
            label=label if number < NAMED else None,
        )  # fmt: skip
        if len(seeds) > 1:
            draw_band(axis, alphas, mean, values.std(axis=1), colour)
        else:
            above = mean > straight
            axis.fill_between(
                alphas, straight, mean, where=above, interpolate=True, color=colour, alpha=0.12, linewidth=0
            )
        axis.plot(alphas, straight, color=colour, linewidth=0.7, linestyle=":")
        axis.plot([0, 1], mean[[0, -1]], "o", color=colour, clip_on=False, zorder=3)
    axis.set_xlim(0, 1)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("α (0: main branch, 1: branch)")
    kind, split = column.split("_")
    axis.set_ylabel(f"{split} {'cross-entropy (nats)' if kind == 'loss' else 'error (%)'}")


def _seeds(lines: pd.DataFrame) -> pd.Series:
    """What tells the lines of one k1 and k2 apart: the seed, else nothing."""
    return lines["branch_seed"] if "branch_seed" in lines else pd.Series(0, index=lines.index)


def draw_against_k1(axis: Axes, pairs: Pairs, column: str = LOSS) -> None:
    """A barrier, or the distance, against k1: one line per k2.

    `pairs` are those of a result (`answer.result.pairs` of `mcx lmc run`) or its table (`dataframes/<data set>` of
    `api.read`), `column` one of the table's. Of several seeds of the branches the mean is drawn with a band of one
    standard deviation.
    """
    table = _table(pairs, column)
    spread = _spread(table, column)
    lines = list(spread.groupby("k2"))
    for number, ((k2, own), colour) in enumerate(zip(lines, shades(len(lines)), strict=True)):
        label = f"k2 = {k2}" if len(lines) <= NAMED else None
        draw_band(axis, own["k1"], own["mean"], own["sd"], colour)
        axis.plot(own["k1"], own["mean"], color=colour, label=label, **lines_of(number))
    _barriers_axis(axis, column)
    whole_numbers(axis, K1)


def draw_against_distance(axis: Axes, pairs: Pairs, column: str = LOSS) -> None:
    """A barrier against the distance: a point per pair and seed, its colour and its marker by k1.

    `pairs` and `column` as for barriers against k1.
    """
    table = _table(pairs, column, DISTANCE)
    rows = list(table.groupby("k1"))
    for number, ((k1, own), colour) in enumerate(zip(rows, shades(len(rows)), strict=True)):
        label = f"k1 = {k1}" if len(rows) <= NAMED else None
        axis.scatter(
            own[DISTANCE], own[column], s=14, color=colour, marker=MARKERS[number % len(MARKERS)], label=label
        )
    axis.set_xlabel(titled(DISTANCE))
    _barriers_axis(axis, column)


def draw_map(axis: Axes, pairs: Pairs, column: str = LOSS) -> AxesImage:
    """A barrier, or the distance, over k1 and k2 as a heat map, of several seeds the mean; a cell says its value where
    there is room. Returns the image, for a colour bar. `pairs` and `column` as for barriers against k1.
    """
    spread = _spread(_table(pairs, column), column)
    grid = spread.pivot(index="k1", columns="k2", values="mean").sort_index().sort_index(axis=1)
    image = draw_cells(axis, grid.to_numpy(float), written=grid.shape[1] <= WRITTEN)
    axis.set_xticks(range(grid.shape[1]), map(str, grid.columns))
    axis.set_yticks(range(grid.shape[0]), map(str, grid.index))
    axis.set_xlabel("k2 (further epochs)")
    axis.set_ylabel(K1)
    return image
