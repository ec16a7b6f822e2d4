"""What `mcx curve eval` finds beside the losses, and paths beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modeconn_cli.cli.tables import (
    EPOCHS,
    SERIES,
    Block,
    Lines,
    Table,
    ends,
    number,
    percent,
    significant,
    spread,
    with_error,
)

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.curve.compare import CurveCompareResult
    from modeconn_cli.engine.commands.curve.eval import CurveEvalResult
    from modeconn_cli.engine.paths.ensemble import Quality

MOST_EIGENVALUES = 6  # in a table; the others are in the files
MOST_CLASSES = 20  # in a table; the others are in the files


def predictions_block(result: CurveEvalResult) -> list[Block]:
    """Which samples change class, by class."""
    found = result.predictions
    if found is None:
        return []
    columns = ("class", "samples", "change class", "share", "changes", "right at both ends", "at neither",
               "at t = 0 only", "at t = 1 only")  # fmt: skip
    rows = tuple(
        (
            "all" if each.label is None else str(each.label),
            f"{each.samples:,}",
            f"{each.changing:,}",
            percent(each.changing / each.samples),
            *(f"{count:,}" for count in (each.changes, each.right, each.wrong, each.lost, each.gained)),
        )
        for each in found[: MOST_CLASSES + 1]
    )
    more = len(found) - len(rows)
    return [
        Table(f"Samples that change class along the path ({result.held_out})", columns, rows),
        *([Lines((f"{more} more classes are in curve_summary.json",))] if more else []),
    ]


def ensemble_block(result: CurveEvalResult) -> list[Block]:
    """The members of an ensemble, the ensemble and the weight average."""
    found = result.ensemble
    if found is None:
        return []

    def row(name: str, quality: Quality) -> tuple[str, ...]:
        return name, number(quality.accuracy, 2), number(quality.nll, 4), number(quality.ece, 4)

    held_out = result.held_out
    rows = (
        *(row(f"t = {each.t:g}", each) for each in found.members),
        row("ensemble", found.ensemble),
        row("weight average", found.weight_average),
    )
    columns = ("network", f"{held_out} accuracy (%)", f"{held_out} nll", f"{held_out} ECE")
    said = (
        f"Ensemble: mean of the members' probabilities. ECE: {found.bins} bins of equal width, share of 1. Batch norm "
        f"of the weight average: {result.bn.policy}"
    )
    return [Table("Ensemble along the path", columns, rows), Lines((said,))]


def sharpness_block(result: CurveEvalResult) -> list[Block]:
    """Eigenvalues and trace of the Hessian at each position."""
    found = result.sharpness
    if found is None:
        return []
    count = len(found.top[0])
    shown = [*range(min(count, MOST_EIGENVALUES))]
    columns = ("t", *(f"λ{k + 1}" for k in shown), *(("trace",) if found.draws else ()))
    every = [
        (
            f"{t:g}",
            *(significant(top[k]) for k in shown),
            *((with_error(trace, error, significant),) if found.draws else ()),
        )
        for t, top, trace, error in zip(found.t, found.top, found.trace, found.trace_stderr, strict=True)
    ]
    rows, left_out = ends(every, EPOCHS, "positions")
    said = f"Hessian of the loss on {found.images:,} training images, without weight decay: {found.products:,} products"
    if found.draws:
        said += f"; trace ± standard error of {found.draws} random vectors"
    return [Table("Sharpness along the path", columns, tuple(rows)), Lines((said, *left_out))]


def compare_table(result: CurveCompareResult) -> list[Block]:
    """A row per path, with the barriers of one definition."""
    held_out = " or ".join(dict.fromkeys(path.held_out for path in result.paths))
    columns = (
        "path", "kind", "seeds", "positions", "length", "L2 distance", f"highest {held_out} nll",
        *(f"{name.format(held_out)} {result.barrier}" for name in SERIES.values()),
    )  # fmt: skip
    rows = tuple(
        (
            path.name,
            path.kind,
            str(len(path.files)),
            str(path.positions),
            spread(path.length, 2),
            spread(path.distance, 2),
            spread(path.top["loss_test"], 4),
            *(spread(path.barriers[result.barrier][name], 4 if "loss" in name else 2) for name in SERIES),
        )
        for path in result.paths
    )
    several = any(len(path.files) > 1 for path in result.paths)
    over = ", mean ± standard deviation over seeds" if several else ""
    said = "Barriers: errors in points, nll in nats without weight decay"
    return [Table(f"Paths compared{over}", columns, rows, text_columns=2), Lines((said,))]
