"""`mcx l2`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Part, Table, distance_block, layers_block, number, percent
from modeconn_cli.engine.settings.l2 import L2Settings

if TYPE_CHECKING:
    from modeconn_cli.engine.l2 import L2Result
    from modeconn_cli.engine.l2_many import L2ManyResult

app = typer.Typer()


@app.command("l2")
@takes(L2Settings, "l2")
def l2(settings: L2Settings, report: Report) -> None:
    """Measure how far apart checkpoints are in weight space."""
    from modeconn_cli.engine import l2 as engine
    from modeconn_cli.engine import l2_many

    if len(engine.given(settings)) > 2 or settings.output_dir is not None:
        report.run(l2_many.run, settings, many_table)
        return
    report.run(engine.run, settings, table)


def many_table(result: L2ManyResult) -> list[Part]:
    rows = tuple(
        (
            row.pair,
            number(row.total_l2),
            number(row.normalized_l2),
            percent(row.relative),
            "n/a" if row.total_params is None else f"{row.total_params:,}",
            row.status,
        )
        for row in result.pairs
    )
    columns = ("pair", "total L2", "normalized L2", "relative", "parameters", "status")
    return [Table(f"L2 distances of {len(result.checkpoints)} checkpoints", columns, rows)]


def table(result: L2Result) -> list[Part]:
    return [distance_block(result.distance), layers_block(result.distance, result.top_k, result.order)]
