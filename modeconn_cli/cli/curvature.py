"""`mcx curvature`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import EPOCHS, Block, Lines, Table, ends, number, percent
from modeconn_cli.engine.settings.curvature import CurvatureSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.curvature import CurvatureResult
    from modeconn_cli.engine.commands.curvature.stability import StabilityResult

app = typer.Typer()


@app.command("curvature")
@takes(CurvatureSettings, "curvature")
def curvature(settings: CurvatureSettings, report: Report) -> None:
    """Measure the curvature of every sample's loss around its input, along random directions.

      mean over s of ‖∇loss(x + h s) − ∇loss(x)‖₂, s random in {±1}^d

    Garg et al. 2024 (arXiv:2307.05831). Writes per_image_curvature.npy and per_image_directional_eig.npy (in units
    of h), and per epoch curvature_results_*.csv with the true scale: hvp_norm is the mean of ‖Hs‖ and
    trace_of_square that of its square, Tr H², which is the paper's definition; trace is Tr H with its standard
    error. Over several epochs the arrays hold the mean. With --sweep-h or --sweep-niter it says how far the scores
    depend on the step and directions.

    Examples, after the first of mcx train:
      mcx curvature runs/seed0/checkpoint-5.pt --max-samples 200 --output-dir curvature
      mcx curvature runs/seed0/checkpoint-5.pt --max-samples 200 --sweep-h 1e-4,1e-3,1e-2 --output-dir steps

    More: mcx correlate --help, mcx help files.

    Losses and their gradients at the logits are taken in float64, so that samples with losses below 1e-12 are as
    exact as others: of trained networks in float32 a score is 2e-5 to 3e-4 off float64 in the median and 2e-4 to
    2e-3 at the 99th percentile with the default step, by the network (six of them); a tenth of that with hvp. Equal
    --batch-size and --threads give equal bytes. Batches of another size, small ones above all, change the last
    digits of float32: at the default step a score by less than a thousandth in the median, by a hundredth at most.
    """
    from modeconn_cli.engine.commands import curvature as run
    from modeconn_cli.engine.commands.curvature import stability

    if settings.sweep_h or settings.sweep_niter:
        report.run(stability.run, settings, stability_table)
    else:
        report.run(run.run, settings, table)


def table(result: CurvatureResult) -> list[Block]:
    keys = ("mean", "std", "q5", "q50", "q95")
    epochs, omitted = ends(result.epochs, EPOCHS, "epochs")
    rows = tuple(
        (
            str(each.epoch),
            *(_short(each.statistics["curvature"][key]) for key in keys),
            _short(each.statistics["directional_eig"]["mean"]),
            _short(each.statistics["trace"]["mean"]),
            _short(each.statistics.get("trace_of_square", {}).get("mean")),
            percent(each.rounded, 1),
            str(each.nonfinite),
        )
        for each in epochs
    )
    columns = (
        "epoch",
        *keys,
        "mean directional eig",
        "mean trace",
        "mean Tr H²",
        "near rounding",
        "non-finite",
    )
    how = f"{result.method}, h = {result.h:g}, {result.niter} directions"
    title = f"Curvature of {result.samples:,} samples of {result.dataset} ({how})"
    lines = (f"Scored in this run: {result.scored} epochs", *omitted)
    return [Table(title, columns, rows, text_columns=0), Lines(lines)]


def stability_table(result: StabilityResult) -> list[Block]:
    rows = tuple(
        (
            row.parameter,
            f"{row.value:g}",
            _short(row.mean),
            _short(row.median),
            _short(row.mean_trace),
            number(row.spearman, 4),
            number(row.pearson, 4),
            percent(row.median_change),
            number(row.reliability, 4),
            percent(row.rounded, 1),
        )
        for row in result.rows
    )
    columns = (
        "swept", "value", "mean |Hs|", "median", "mean trace", "Spearman", "Pearson", "median change", "reliability",
        "near rounding",
    )  # fmt: skip
    title = f"Stability of the curvature of {result.samples:,} samples of {result.dataset} at epoch {result.epoch}"
    lines = (
        f"Spearman, Pearson and median change: against h = {result.h:g}, and against the most directions",
        "reliability: of two halves of the directions (of an odd number without the last), by Spearman and Brown",
    )
    return [Table(title, columns, rows, keys=2), Lines(lines)]


def _short(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"
