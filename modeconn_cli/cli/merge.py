"""`mcx merge`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Lines, Table, number
from modeconn_cli.engine.settings.merge import MergeSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.merge import MergeResult

app = typer.Typer()


@app.command("merge")
@takes(MergeSettings, "merge")
def merge(settings: MergeSettings, report: Report) -> None:
    """Average networks, and evaluate the average beside its members.

    Examples, after two seeds of mcx train:
      mcx merge zero=runs/seed0/checkpoint-5.pt one=runs/seed1/checkpoint-5.pt --align weights --output merged.pt

    More: mcx help models, mcx help data.
    """
    from modeconn_cli.engine.commands import merge as engine

    report.run(engine.run, settings, table)


def table(result: MergeResult) -> list[Block]:
    rows = tuple(
        (
            each.name,
            "" if each.share is None else number(each.share, 4),
            number(each.loss, 4),
            number(each.accuracy, 2),
        )
        for each in (*result.members, result.merged)
    )
    title = f"Networks and their average on {result.images:,} {result.held_out} images"
    how = f"Aligned: {result.align}; batch norm: {result.bn.policy}" + ("; greedy" if result.greedy else "")
    return [Table(title, ("network", "share", "loss", "accuracy (%)"), rows), Lines((how,))]
