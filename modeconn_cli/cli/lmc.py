"""`mcx lmc`: run, interpolate, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Lines, Table, barriers_block, number, significant, spread
from modeconn_cli.engine.settings.lmc import LmcInterpolateSettings, LmcReportSettings, LmcRunSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.lmc.interpolate import LmcInterpolateResult
    from modeconn_cli.engine.commands.lmc.pairs import MeanPair, PairResult
    from modeconn_cli.engine.commands.lmc.report import LmcReportResult, Series
    from modeconn_cli.engine.commands.lmc.run import Lines as MeasuredLines
    from modeconn_cli.engine.commands.lmc.run import LmcRunResult

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@app.command("run")
@takes(LmcRunSettings, "lmc run")
def run(settings: LmcRunSettings, report: Report) -> None:
    """Branch off a training run at epochs k1 and measure the straight lines back to it k2 epochs later.

    Frankle et al. 2020 (arXiv:1912.05671): once no barrier is left, noise of SGD no longer decides where a run
    ends. Writes checkpoints/, processed/*.json, dataframes/*.csv and figures to <output-dir>; what is there is
    reused, and more epochs, branches or positions cost only what is new. With --align every line is measured a
    second time with the units of the branch in the order of the main branch's.

    Examples:
      mcx lmc run --model mlp --dataset digits --k1 0,1 --k2 1,2 --num-alphas 5 --output-dir branches
      mcx lmc run --preset digits --dry-run --output-dir preset

    More: mcx lmc report --help, mcx help files.
    """
    from modeconn_cli.engine.commands.lmc import run as engine

    report.run(engine.run, settings, run_table)


@app.command("interpolate")
@takes(LmcInterpolateSettings, "lmc interpolate")
def interpolate(settings: LmcInterpolateSettings, report: Report) -> None:
    """Measure the barrier on the straight line between two networks, by every definition in use.

      max_gap = max over α of L(α) − ((1−α) L(A) + α L(B))

    --by-layer asks which layers make it: one moves from A to B, then all up to it, and the rest of the network stays
    A's, then B's (Adilova et al. 2024, arXiv:2307.06966). And are the features of every layer on the line those of A
    and B, interpolated? cos(f(α), (1−α) f(A) + α f(B)) (Zhou et al. 2023, arXiv:2307.08286).

    Examples, after the first of mcx train:
      mcx lmc interpolate runs/seed0/checkpoint-5.pt runs/seed1/checkpoint-5.pt --num-alphas 11
      mcx lmc interpolate runs/seed0/checkpoint-5.pt runs/seed0/checkpoint-3.pt --num-alphas 5 --output-dir near
      mcx lmc interpolate runs/seed0/checkpoint-5.pt runs/seed1/checkpoint-5.pt --num-alphas 3 --by-layer --layers fc1

    More: mcx curve train --help for a path without the barrier, mcx help files.
    """
    from modeconn_cli.engine.commands.lmc import interpolate as engine

    report.run(engine.run, settings, interpolate_table)


@app.command("report")
@takes(LmcReportSettings, "lmc report")
def report_(settings: LmcReportSettings, report: Report) -> None:
    """Compare barriers and distances of several experiments.

    Writes lmc_report.csv, lmc_report.png and lmc_across.png to <output-dir>. Reads the original study's JSON files
    too: their α is turned round and their absolute k2 counted from k1.

    Examples, after the first of mcx lmc run:
      mcx lmc report branches --output-dir branches/report

    More: mcx help compat, mcx help files.
    """
    from modeconn_cli.engine.commands.lmc import report as engine

    report.run(engine.run, settings, report_table)


COLUMNS = (
    "k1", "k2", "epoch", "L2 distance", "train nll max_gap", "test nll max_gap", "test nll midpoint",
    "train error sup_minus_mean", "test error sup_minus_mean",
)  # fmt: skip


def run_table(result: LmcRunResult) -> list[Block]:
    rows = _lines_rows(result)
    seeds = result.branch_seed
    branches = (
        f"branch (seed {seeds})"
        if isinstance(seeds, int)
        else f"branches (seeds {', '.join(map(str, seeds))})"
    )
    title = f"{result.model} on {result.dataset}: {branches} against main (seed {result.seed})"
    if result.means:
        title += ", mean ± standard deviation"
    tables, lines = [Table(title, COLUMNS, rows, text_columns=0, keys=2)], [_stable(result.stable_from)]
    if result.aligned is not None:
        by = f"aligned by {result.align}"
        moved = _lines_rows(result.aligned)
        tables.append(Table(f"The same lines, each branch {by}", COLUMNS, moved, text_columns=0, keys=2))
        lines.append(f"{by.capitalize()}: {_lower(_stable(result.aligned.stable_from))}")
    lines += [
        f"In this run: {result.trained_epochs} epochs trained, {result.evaluated_positions} positions evaluated",
    ]
    lines += [f"Missing (stopped early): {path}" for path in result.missing]
    return [*tables, Lines(tuple(lines))]


def _lines_rows(found: MeasuredLines) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            str(pair.k1),
            str(pair.k2),
            str(pair.epoch),
            spread(pair.distance, 4),
            spread(pair.barriers["max_gap"]["loss_train"], 4),
            spread(pair.barriers["max_gap"]["loss_test"], 4),
            spread(pair.barriers["midpoint"]["loss_test"], 4),
            spread(pair.barriers["sup_minus_mean"]["error_train"], 2),
            spread(pair.barriers["sup_minus_mean"]["error_test"], 2),
        )
        for pair in found.means or found.pairs
    )


def _lower(sentence: str) -> str:
    """A sentence behind a colon."""
    return sentence[0].lower() + sentence[1:]


def _stable(k1: int | None) -> str:
    found = "no k1 here" if k1 is None else f"k1 = {k1}"
    return (
        "Stable to SGD noise (error rises by less than 2 points at every k2, on training and test images; "
        f"Frankle et al. 2020) from: {found}"
    )


def report_table(result: LmcReportResult) -> list[Block]:
    columns = ("series", "k1", "pairs", "k2", "L2 distance", f"{result.barrier} {result.which}", "at k2")
    rows = tuple(row for series in result.series for row in _report_rows(series, result))
    lines = [f"{series.name}: {_lower(_stable(series.stable_from))}" for series in result.series]
    lines += [
        f"{series.name}: files of the original study, α turned round"
        for series in result.series
        if series.original
    ]
    seeds = sorted({mean.seeds for series in result.series for mean in series.means})
    over = f", mean ± standard deviation of {' or '.join(map(str, seeds))} branch seeds" if seeds else ""
    return [
        Table(f"Largest barrier of each k1{over}", columns, rows, keys=2),
        Lines(tuple(lines)),
    ]


def _report_rows(series: Series, result: LmcReportResult) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    pairs: Sequence[PairResult | MeanPair] = series.means or series.pairs
    for k1 in sorted({pair.k1 for pair in pairs}):
        chosen = [pair for pair in pairs if pair.k1 == k1]
        top = max(chosen, key=lambda pair: pair.barrier(result.barrier, result.which))
        rows.append(
            (
                series.name,
                str(k1),
                str(sum(pair.k1 == k1 for pair in series.pairs)),
                _span([pair.k2 for pair in chosen]),
                spread(top.distance, 4),
                spread(top.barriers[result.barrier][result.which], 4),
                str(top.k2),
            )
        )
    return rows


def _span(values: list[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)}–{max(values)}"


NAMES = {
    "loss_train": "train nll",
    "error_train": "train error (%)",
    "loss_test": "{} nll",
    "error_test": "{} error (%)",
}


def interpolate_table(result: LmcInterpolateResult) -> list[Block]:
    keys = tuple(vars(next(iter(result.statistics.values()))))
    rows = tuple(
        (
            NAMES[name].format(result.held_out),
            *(number(value, 4) for value in vars(values).values()),
        )
        for name, values in result.statistics.items()
    )
    lines = [f"L2 distance: {number(result.distance)}"]
    if result.distance_unpermuted is not None:
        lines[0] += f" (before the permutation: {number(result.distance_unpermuted)})"
    return [
        Table(f"On the line ({len(result.line.alphas)} positions)", ("series", *keys), rows),
        *barriers_block(result.barriers, result.held_out, len(result.line.alphas)),
        Lines(tuple(lines)),
        *(_layers_table(result, moves) for moves in _MOVES if result.layers),
        *([_features_table(result)] if result.features else []),
    ]


_MOVES = {"alone": "One layer moves", "up_to": "All layers up to it move"}


def _layers_table(result: LmcInterpolateResult, moves: str) -> Table:
    """A row per layer and end that the rest is from: the rise over the line between both networks, and over its own."""
    held_out = result.held_out
    columns = (
        "layer", "rest from", f"{held_out} nll", "nll, own ends", f"{held_out} error", "error, own ends",
    )  # fmt: skip
    rows = tuple(
        (
            line.layer,
            f"α = {line.rest}",
            *(
                significant(found[name], 4 if name == "loss_test" else 2)
                for name in ("loss_test", "error_test")
                for found in (line.max_gap, line.max_gap_own)
            ),
        )
        for line in result.layers or ()
        if line.moves == moves
    )
    title = f"{_MOVES[moves]}: max_gap over the line between both networks, and over its own"
    return Table(title, columns, rows, text_columns=2, keys=2)


def _features_table(result: LmcInterpolateResult) -> Table:
    """A row per layer: the least cosine over α of its features with those of the ends, interpolated."""
    rows = []
    for site in result.features or ():
        at = site.least
        chosen = (
            (None, None, None)
            if at is None
            else (site.cosine[at], result.line.alphas[at], site.coefficient[at])
        )
        rows.append(
            (
                site.layer,
                site.site,
                *(number(value, digits) for value, digits in zip(chosen, (4, 3, 4), strict=True)),
                number(site.baseline, 4),
                str(max(site.zero)),
            )
        )
    columns = ("layer", "site", "least cosine", "at α", "coefficient", "of the ends", "zero samples")
    title = f"Features of {result.held_out} images on the line, and those of the ends interpolated"
    return Table(title, columns, tuple(rows), text_columns=2, keys=2)
