"""`mcx curve`: train, eval, plane, compare, analyze, extract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.along import compare_table, ensemble_block, predictions_block, sharpness_block
from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import (
    EPOCHS,
    Block,
    Lines,
    Table,
    barriers_block,
    barriers_table,
    ends,
    number,
    percent,
)
from modeconn_cli.engine.settings.curve import (
    CurveAnalyzeSettings,
    CurveCompareSettings,
    CurveEvalSettings,
    CurveExtractSettings,
    CurvePlaneSettings,
    CurveTrainSettings,
)

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.curve.analyze import CurveAnalyzeResult
    from modeconn_cli.engine.commands.curve.eval import CurveEvalResult
    from modeconn_cli.engine.commands.curve.extract import CurveExtractResult
    from modeconn_cli.engine.commands.curve.plane import CurvePlaneResult
    from modeconn_cli.engine.commands.curve.train import CurveTrainResult

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@app.command("train")
@takes(CurveTrainSettings, "curve train")
def train(settings: CurveTrainSettings, report: Report) -> None:
    """Train a curve of low loss between two networks (Garipov et al. 2018, arXiv:1802.10026).

      min over the free points of E_t [loss(w(t))], t uniform on [0, 1]

    Writes checkpoint-<epoch>.pt, metrics.jsonl and endpoint_l2_distance.txt to <output-dir>/checkpoints/. With
    --simplex a vertex is added instead, and another one with --init-curve (Benton et al. 2021, arXiv:2102.13042).

    Examples, after the first of mcx train:
      mcx curve train runs/seed0/checkpoint-5.pt runs/seed1/checkpoint-5.pt --epochs 5 --output-dir curve
      mcx curve train runs/seed0/checkpoint-5.pt runs/seed1/checkpoint-5.pt --num-bends 5 --epochs 5 --output-dir bends

    More: mcx curve eval --help, mcx help files.
    """
    from modeconn_cli.engine.commands.curve import train as engine

    report.run(engine.run, settings, train_table)


@app.command("eval")
@takes(CurveEvalSettings, "curve eval")
def evaluate(settings: CurveEvalSettings, report: Report) -> None:
    """Evaluate a curve, the straight line between two networks, or the chain of lines through more of them, at equally
    spaced positions.

    Loss, error and accuracy on training and test images at each t, with the statistics of batch norm recomputed
    there; minimum, maximum and mean of each along the path, and its length. Writes curve.npz, curve_summary.json
    and curve.png; with --save-predictions predictions.npz, prediction_changes.csv and prediction_changes.png.

    --ensemble averages the probabilities at these t; ECE is over 15 bins of confidence. --hessian-top and
    --hessian-trace look at H, the Hessian of the training images' mean cross-entropy without weight decay; its trace
    is the mean of vᵀHv over vectors v of random signs, ± standard error.

    Examples, after the first of mcx curve train:
      mcx curve eval curve/checkpoints/checkpoint-5.pt --num-points 11 --output-dir curve/eval
      mcx curve eval runs/seed0/checkpoint-5.pt runs/seed1/checkpoint-5.pt --num-points 11 --output-dir line
      mcx curve eval curve/checkpoints/checkpoint-5.pt --num-points 5 --save-predictions --output-dir changes
      mcx curve eval curve/checkpoints/checkpoint-5.pt --num-points 3 --ensemble 0,0.5,1 --output-dir ensemble

    More: mcx lmc interpolate --help for the barriers of a line, mcx help files.
    """
    from modeconn_cli.engine.commands.curve import eval as engine

    report.run(engine.run, settings, eval_table)


@app.command("plane")
@takes(CurvePlaneSettings, "curve plane")
def plane(settings: CurvePlaneSettings, report: Report) -> None:
    """Evaluate loss and error on a plane: through three networks, of a curve, of a run, or around one network.

    Of a run (--run) the two leading principal directions, with the checkpoints projected; around one network two random
    directions, filter by filter as long as the network (Li et al. 2018, arXiv:1712.09913). Writes plane.npz,
    plane_summary.json and plane.png.

    Examples, after the first of mcx curve train:
      mcx curve plane curve/checkpoints/checkpoint-5.pt --grid-points 5 --output-dir plane
      mcx curve plane --run runs/seed0 --grid-points 5 --output-dir way
      mcx curve plane runs/seed0/checkpoint-5.pt --random-directions 0 --grid-points 5 --output-dir around

    More: mcx curve eval --help for the path itself, mcx help files.
    """
    from modeconn_cli.engine.commands.curve import plane as engine

    report.run(engine.run, settings, plane_table)


@app.command("compare")
@takes(CurveCompareSettings, "curve compare")
def compare(settings: CurveCompareSettings, report: Report) -> None:
    """Compare evaluations of curves and straight lines: barriers, lengths, losses along the way.

    Folders that differ in seed<k> alone, or have one label, are seeds of one path: mean ± standard deviation. Writes
    curve_compare.csv, curve_compare_mean.csv and curve_compare.png to <output-dir>.

    Examples, after the first two of mcx curve eval:
      mcx curve compare curve/eval line --output-dir compared
      mcx curve compare bezier=curve/eval straight=line --barrier midpoint

    More: mcx lmc report --help for experiments of mcx lmc run, mcx help files.
    """
    from modeconn_cli.engine.commands.curve import compare as engine

    report.run(engine.run, settings, compare_table)


@app.command("analyze")
@takes(CurveAnalyzeSettings, "curve analyze")
def analyze(settings: CurveAnalyzeSettings, report: Report) -> None:
    """Measure how far each layer moves along a curve.

      of each layer, at each t: ‖w_t − w_0‖₂, the same over √P and over ‖w_0‖₂

    Writes layer_distances_along_curve.npz and analysis_summary.json to <output-dir>.

    Examples, after the first of mcx curve train:
      mcx curve analyze curve/checkpoints/checkpoint-5.pt --output-dir curve/analysis

    More: mcx animate --help draws what this writes; mcx help files.
    """
    from modeconn_cli.engine.commands.curve import analyze as engine

    report.run(engine.run, settings, analyze_table)


@app.command("extract")
@takes(CurveExtractSettings, "curve extract")
def extract(settings: CurveExtractSettings, report: Report) -> None:
    """Write the network at one position of a curve as an ordinary checkpoint.

    Statistics of batch norm are recomputed on training images unless --bn says otherwise; --bn repair gives the outputs
    of every layer mean and deviation between those of the ends.

    Examples, after the first of mcx curve train:
      mcx curve extract curve/checkpoints/checkpoint-5.pt --t 0.5 --output middle.pt

    A point of a simplex is said by --shares, a number for each of its vertices.

    More: mcx curve eval --help.
    """
    from modeconn_cli.engine.commands.curve import extract as engine

    report.run(engine.run, settings, extract_table)


def train_table(result: CurveTrainResult) -> list[Block]:
    from modeconn_cli.engine.commands.curve.train import distance_text

    metrics = result.metrics
    columns = ("curve", "bends", "epoch", "train loss", "train nll", "train acc (%)", "checkpoint")
    row = (
        result.curve,
        str(result.num_bends),
        str(result.epoch),
        number(metrics.get("train_loss"), 4),
        number(metrics.get("train_nll", metrics.get("train_loss")), 4),
        number(metrics.get("train_accuracy"), 2),
        result.checkpoint,
    )
    text = distance_text(result.endpoint0, result.endpoint1, result.distance)
    return [Lines(tuple(text.splitlines())), Table("", columns, (row,))]


NAMES = {
    "tr_loss": "train loss",
    "tr_nll": "train nll",
    "tr_err": "train error (%)",
    "te_loss": "{} loss",
    "te_nll": "{} nll",
    "te_err": "{} error (%)",
}

MADE = {
    "networks": "three networks",
    "curve": "a curve",
    "run": "a run",
    "random directions": "two random directions",
}


def eval_table(result: CurveEvalResult) -> list[Block]:
    rows = tuple(
        (NAMES[name].format(result.held_out), *(number(value, 4) for value in vars(values).values()))
        for name, values in result.statistics.items()
    )
    keys = tuple(vars(next(iter(result.statistics.values()))))
    decay = " (loss is nll plus the weight decay)" if result.wd else ""
    return [
        Table(f"Along the {result.curve} ({result.num_points} positions)", ("series", *keys), rows),
        *barriers_block(result.barriers, result.held_out, result.num_points, decay),
        *_segments_block(result),
        Lines(
            (
                f"Length: {result.length:.2f} (endpoints: {result.endpoint_distance:.2f})",
                f"Evaluated on {result.data['dataset']} with {result.data['transform']['said']}, "
                f"weight decay {result.wd:g} in the loss",
            )
        ),
        *predictions_block(result),
        *ensemble_block(result),
        *sharpness_block(result),
    ]


def plane_table(result: CurvePlaneResult) -> list[Block]:
    side, held_out = result.grid_points, result.held_out
    rows = tuple(
        (NAMES[name].format(held_out), *(number(value, 4) for value in vars(values).values()))
        for name, values in result.statistics.items()
    )
    shown, more = ends(result.points, EPOCHS, "checkpoints")
    points = tuple(
        (each.name, *(number(value, 2) for value in (each.x, each.y, each.off)),
         *(number(value, 4) for value in (each.tr_loss, each.te_loss, each.te_err)))
        for each in shown
    )  # fmt: skip
    heads = ("point", "x", "y", "off plane", "train loss", f"{held_out} loss", f"{held_out} error (%)")
    shares = (
        "" if result.shares is None else f"; shares of variance: {' and '.join(map(percent, result.shares))}"
    )
    angle = "" if result.angle is None else f"; angle at the first point: {result.angle:.2f} degrees"
    lines = [
        *more,
        f"Lengths of the directions: {result.spans[0]:.2f} and {result.spans[1]:.2f}{angle}{shares}",
    ]
    if result.nonfinite_cells:
        lines.append(f"Cells that are not finite: {result.nonfinite_cells} of {side * side}")
    title = f"Over the plane of {MADE[result.made]} ({side} x {side} cells)"
    return [
        Table(title, ("series", "min", "at x", "at y", "max"), rows),
        Table("Points", heads, points),
        Lines(
            (
                *lines,
                f"Evaluated on {result.data['dataset']} with {result.data['transform']['said']}, "
                f"weight decay {result.wd:g} in the loss",
            )
        ),
    ]


def _segments_block(result: CurveEvalResult) -> list[Block]:
    """The barrier of every segment of a chain."""
    from modeconn_cli.engine.paths.barriers import HEADLINE

    if not result.segments:
        return []
    segments = {f"{k} to {k + 1}": each[HEADLINE] for k, each in enumerate(result.segments)}
    title = f"Barriers between the networks of the chain ({HEADLINE})"
    return [barriers_table(title, "networks", segments, result.held_out)]


def analyze_table(result: CurveAnalyzeResult) -> list[Block]:
    rows = tuple(
        (
            layer.name + (" *" if layer.name in result.swapped_layers else ""),
            layer.type,
            f"{layer.n_params:,}",
            number(layer.normalized_l2_middle),
            number(layer.normalized_l2_end),
            number(layer.modulo_swap_end),
            number(layer.from_line_max),
        )
        for layer in result.layers
    )
    columns = (
        "layer", "type", "params", "normalized t=0.5", "normalized t=1", "raw modulo swap t=1", "raw from line max",
    )  # fmt: skip
    parts: list[Block] = [Table("Layer distances from endpoint 0", columns, rows, text_columns=2)]
    lines = [
        f"Participation ratio at t = 0.5: {result.participation_ratio:.2f} of {len(result.layers)} layers"
    ]
    if result.swapped_layer and len(result.swapped_layers) < 2:
        lines += [
            f"Share of the squared distance at t = 0.5: swapped layer {percent(result.share_swapped)}, "
            f"its neighbours {percent(result.share_neighbours)}, elsewhere {percent(result.share_elsewhere)}",
            "* swapped layer",
        ]
    elif result.swapped_layer:
        shares = result.share_swapped, result.share_neighbours, result.share_swapped_layers
        first, beside, together = (share or 0.0 for share in shares)
        known = result.share_swapped_layers is not None
        around = percent(max(first + beside - together, 0.0) if known else None)
        lines += [
            f"Share of the squared distance at t = 0.5: the {len(result.swapped_layers)} swapped layers "
            f"{percent(result.share_swapped_layers)} ({result.swapped_layer} alone {percent(result.share_swapped)}), "
            f"their neighbours {around}, elsewhere {percent(result.share_elsewhere)}",
            f"* swapped layers: the outputs of {result.swapped_layer} and of these are added, so that their units move "
            "together",
        ]
    return [*parts, Lines(tuple(lines))]


def extract_table(result: CurveExtractResult) -> list[Block]:
    columns = ("t" if result.t is not None else "shares", "parameters", "l2 norm", "batch norm", "output")
    row = (
        ",".join(f"{share:g}" for share in result.shares) if result.t is None else f"{result.t:g}",
        f"{result.num_params:,}",
        number(result.l2_norm, 4),
        result.bn.policy,
        result.output,
    )
    return [Table("", columns, (row,))]
