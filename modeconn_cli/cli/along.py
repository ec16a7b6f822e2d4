"""What `mcx curve eval` finds beside the losses: changes of class, ensembles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modeconn_cli.cli.tables import Block, Lines, Table, number, percent

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.curve.eval import CurveEvalResult
    from modeconn_cli.engine.paths.ensemble import Quality

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
