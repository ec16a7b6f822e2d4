"""`mcx l2`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Part, distance_block, layers_block
from modeconn_cli.engine.settings.l2 import L2Settings

if TYPE_CHECKING:
    from modeconn_cli.engine.l2 import L2Result

app = typer.Typer()


@app.command("l2")
@takes(L2Settings, "l2")
def l2(settings: L2Settings, report: Report) -> None:
    """Measure how far apart two checkpoints are in weight space."""
    from modeconn_cli.engine import l2 as engine

    report.emit(engine.run(settings, report.runtime(settings)), table)


def table(result: L2Result) -> list[Part]:
    return [distance_block(result.distance), layers_block(result.distance, result.top_k, result.order)]
