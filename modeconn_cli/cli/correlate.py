"""`mcx correlate`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Lines, Table, number, with_error
from modeconn_cli.engine.settings.correlate import CorrelateSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.correlate import CorrelateResult

app = typer.Typer()

SMALLEST = 1e-300  # chances below are too small for a float
SHOWN = 28  # pairs in a table: those of eight metrics; the others are in the file


@app.command("correlate")
@takes(CorrelateSettings, "correlate")
def correlate(settings: CorrelateSettings, report: Report) -> None:
    """Join every per-sample metric by sample id and correlate them.

    Writes per_sample.csv (one row per sample, with its category by median splits), correlations.csv, by_class.csv,
    by_task.csv, auroc.csv and figures. Reads the files of mcx and of the original scripts. Correlations come with 95 %
    intervals and with p among all pairs of the table (Holm), AUROCs with DeLong's standard error.

    --scores takes every score of mcx csl aggregate by the end at which hard samples lie: which finds flagged samples
    best and which are as good, how far the hardest of each agree (agreement.csv, scores.png), and the hardest by the
    best one (hardest.csv, and hardest.png with their images).

    Examples, after those of mcx csl aggregate and mcx dormant:
      mcx correlate --csl scores/csl --dormant dormant --output-dir joined
      mcx correlate --scores scores/csl --output-dir hardest

    More: mcx help files.
    """
    from modeconn_cli.engine.commands import correlate as engine

    report.run(engine.run, settings, table)


def table(result: CorrelateResult) -> list[Block]:
    parts: list[Block] = [_coverage(result), _correlations(result)]
    if result.categories:
        cells = tuple((name or "no category", f"{count:,}") for name, count in result.categories.items())
        parts.append(Table("Categories by median splits", ("category", "samples"), cells))
    if result.auroc:
        rows = tuple(
            (
                a.flag,
                a.metric,
                a.end,
                f"{a.n:,}",
                f"{a.flagged:,}",
                with_error(a.at_end, a.stderr, partial(number, digits=4)),
                number(a.average_precision, digits=4),
            )
            for a in result.auroc
        )
        columns = ("flag", "metric", "end", "n", "flagged", "AUROC", "avg precision")
        parts.append(Table("Finding the flagged samples", columns, rows, 3, 2))
    parts += [Lines(tuple(f"{text[0].upper()}{text[1:]}" for text in result.advice))] if result.advice else []
    return parts


def _coverage(result: CorrelateResult) -> Table:
    split = f" of the {result.split} split" if result.split else ""
    how = f", --how {result.how}" if result.how else ""
    rows = tuple(
        (each.source, f"{each.samples:,}", f"{each.in_all:,}", f"{each.only_here:,}")
        for each in result.sources
    )
    title = f"{result.samples:,} samples{split}{how}"
    return Table(title, ("source", "samples", "in all sources", "only here"), rows)


def _correlations(result: CorrelateResult) -> Table:
    shown = result.correlations[:SHOWN]
    rows = tuple(
        (
            *(c.metric_a, c.metric_b, f"{c.n:,}", number(c.pearson, 4), number(c.spearman, 4)),
            *(_interval(c.spearman_low, c.spearman_high), _p(c.spearman_p_holm)),
        )
        for c in shown
    )
    title = "Correlations"
    if len(shown) < len(result.correlations):
        title += f" ({len(shown)} of {len(result.correlations)}; all are in correlations.csv)"
    return Table(
        title,
        ("metric", "metric", "n", "Pearson", "Spearman", "its 95 %", "its p (Holm)"),
        rows,
        text_columns=2,
        keys=2,
    )


def _interval(low: float | None, high: float | None) -> str:
    return "n/a" if low is None or high is None else f"{low:.3f} … {high:.3f}"


def _p(value: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.2g}" if value >= SMALLEST else f"< {SMALLEST:.0e}"
