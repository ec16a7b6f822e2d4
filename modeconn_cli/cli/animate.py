"""`mcx animate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Table, number
from modeconn_cli.engine.settings.animate import AnimateSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.animate import AnimateResult

app = typer.Typer()


@app.command("animate")
@takes(AnimateSettings, "animate")
def animate(settings: AnimateSettings, report: Report) -> None:
    """Draw layer distances along a curve as a GIF and a heat map.

    Examples, after that of mcx curve analyze:
      mcx animate curve/analysis/layer_distances_along_curve.npz --output layers.gif --heatmap --max-frames 10

    More: mcx curve analyze --help.
    """
    from modeconn_cli.engine.commands import animate as engine

    report.run(engine.run, settings, table)


def table(result: AnimateResult) -> list[Block]:
    rows = []
    for written in result.files:
        film = written.file == result.output
        frames, seconds = (str(result.frames), number(result.seconds, 1)) if film else ("", "")
        rows.append((written.file, frames, seconds, f"{written.size:,}"))
    return [Table("", ("file", "frames", "seconds", "bytes"), tuple(rows))]
