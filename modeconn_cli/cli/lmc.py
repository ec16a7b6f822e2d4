"""`mcx lmc`: run, interpolate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Lines, Part, Table, number, percent
from modeconn_cli.engine.settings.lmc import LmcInterpolateSettings, LmcRunSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.lmc.interpolate import LmcInterpolateResult
    from modeconn_cli.engine.lmc.run import LmcRunResult

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@app.command("run")
@takes(LmcRunSettings, "lmc run")
def run(settings: LmcRunSettings, report: Report) -> None:
    """Branch off a training run at epochs k1 and measure the straight lines back to it k2 epochs later.

    Writes checkpoints/, processed/*.json, dataframes/*.csv and figures/*.png to <output-dir>; what is there is
    reused, and more epochs, branches or positions cost only what is new.
    """
    from modeconn_cli.engine.lmc import run as engine

    report.run(engine.run, settings, run_table)


@app.command("interpolate")
@takes(LmcInterpolateSettings, "lmc interpolate")
def interpolate(settings: LmcInterpolateSettings, report: Report) -> None:
    """Measure the barrier on the straight line between two networks, by every definition in use."""
    from modeconn_cli.engine.lmc import interpolate as engine

    report.run(engine.run, settings, interpolate_table)


def run_table(result: LmcRunResult) -> list[Part]:
    columns = (
        "k1", "k2", "epoch", "L2 distance", "train loss max_gap", "test loss max_gap", "test loss midpoint",
        "test error sup_minus_mean",
    )  # fmt: skip
    rows = tuple(
        (
            str(pair.k1),
            str(pair.k2),
            str(pair.epoch),
            number(pair.distance, 4),
            number(pair.barriers["max_gap"]["loss_train"], 4),
            number(pair.barriers["max_gap"]["loss_test"], 4),
            number(pair.barriers["midpoint"]["loss_test"], 4),
            number(pair.barriers["sup_minus_mean"]["error_test"], 2),
        )
        for pair in result.pairs
    )
    title = f"{result.model} on {result.dataset}: branch (seed {result.branch_seed}) against main (seed {result.seed})"
    lines = [f"Epochs trained in this run: {result.trained_epochs}", f"Table: {result.table}"]
    lines += [f"Figure: {figure}" for figure in result.figures]
    lines += [f"Missing (stopped early): {path}" for path in result.missing]
    return [Table(title, columns, rows, text_columns=0), Lines(tuple(lines))]


def interpolate_table(result: LmcInterpolateResult) -> list[Part]:
    series = tuple(next(iter(result.barriers.values())))
    rows = tuple(
        (definition, *(number(values[name], 4) for name in series))
        for definition, values in result.barriers.items()
    )
    ends = tuple(
        (
            name,
            number(result.losses_train[i], 4),
            percent(1 - result.accuracy_lst_train[i]),
            number(result.losses_test[i], 4),
            percent(1 - result.accuracy_lst_test[i]),
        )
        for name, i in (("first", 0), ("middle", len(result.alphas) // 2), ("second", -1))
    )
    columns = ("position", "train loss", "train error", f"{result.held_out} loss", f"{result.held_out} error")
    return [
        Table("On the line", columns, ends),
        Table("Barriers", ("definition", *(name.replace("_", " ") for name in series)), rows),
        Lines((f"L2 distance: {number(result.distance)}",)),
    ]
