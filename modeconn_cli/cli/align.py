"""`mcx align`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Lines, Table, number, percent
from modeconn_cli.engine.settings.align import AlignSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.align import AlignResult

app = typer.Typer()


@app.command("align")
@takes(AlignSettings, "align")
def align(settings: AlignSettings, report: Report) -> None:
    """Find the permutation of a network's units under which it lies closest to another one.

    Writes <output>, <stem>_permutation.npz and <stem>_alignment.json; of several
    <label>.pt and these into the folder.

    Examples, after two seeds of mcx train:
      mcx align runs/seed1/checkpoint-5.pt --to runs/seed0/checkpoint-5.pt --output aligned.pt
      mcx align zero=runs/seed0/checkpoint-5.pt one=runs/seed1/checkpoint-5.pt --cycle --output-dir frame

    More: mcx help models, mcx help files.
    """
    from modeconn_cli.engine.commands import align as engine

    report.run(engine.run, settings, table)


def table(result: AlignResult) -> list[Block]:
    rows = tuple(
        (
            label,
            number(each.before.total_l2, 4),
            number(each.after.total_l2, 4),
            percent(each.before.relative_total),
            percent(each.after.relative_total),
            percent(each.share_moved),
        )
        for label, each in result.aligned.items()
    )
    columns = ("network", "L2 before", "L2 after", "relative before", "relative after", "units moved")
    title = f"Aligned to {result.fixed}" if result.fixed else "Aligned to each other (root mean square)"
    first = next(iter(result.aligned.values()))
    parts: list[Block] = [Table(title, columns, rows)]
    if len(result.aligned) == 1:
        groups = tuple(
            (each.name, f"{each.units:,}", f"{each.moved:,}", f"{len(each.layers)}") for each in first.groups
        )
        parts.append(Table("Groups of units", ("group", "units", "moved", "layers"), groups))
    if result.method == "activations":
        parts.append(
            Lines(
                tuple(
                    f"{k}: mean correlation of units {each.objective[0]:.4f}"
                    for k, each in result.aligned.items()
                )
            )
        )
    elif len(result.aligned) == 1 or result.fixed is None:
        values = ", ".join(f"{value:.6g}" for value in first.objective)
        parts.append(Lines((f"Objective, as it was and after each sweep (from {first.start}): {values}",)))
    return parts
