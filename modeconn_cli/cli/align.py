"""`mcx align`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Lines, Table, number, percent
from modeconn_cli.engine.settings.align import AlignSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.align import Alignment, AlignResult

app = typer.Typer()


@app.command("align")
@takes(AlignSettings, "align")
def align(settings: AlignSettings, report: Report) -> None:
    """Find the permutation of a network's units under which it lies closest to another one.

    Writes <output>, <stem>_permutation.npz and <stem>_alignment.json.

    Examples, after two seeds of mcx train:
      mcx align runs/seed1/checkpoint-5.pt --to runs/seed0/checkpoint-5.pt --output aligned.pt
      mcx align runs/seed1/checkpoint-4.pt runs/seed1/checkpoint-5.pt \
          --to runs/seed0/checkpoint-5.pt --output-dir aligned

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
            percent(sum(g.moved for g in each.groups) / max(1, sum(g.units for g in each.groups))),
        )
        for label, each in result.aligned.items()
    )
    columns = ("network", "L2 before", "after", "relative before", "after", "units moved")
    parts: list[Block] = [Table(f"Aligned to {result.fixed}", columns, rows)]
    if len(result.aligned) == 1:
        (only,) = result.aligned.values()
        parts += _of_one(only)
    return parts


def _of_one(found: Alignment) -> list[Block]:
    rows = tuple((g.name, f"{g.units:,}", f"{g.moved:,}", f"{len(g.layers)}") for g in found.groups)
    gained = ", ".join(f"{value:.6g}" for value in found.objective)
    return [
        Table("Groups of units", ("group", "units", "moved", "layers"), rows),
        Lines((f"Objective, as it was and after each sweep ({found.start}): {gained}",)),
    ]
