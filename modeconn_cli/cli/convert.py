"""`mcx convert`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Table
from modeconn_cli.engine.settings.convert import ConvertSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.convert import ConvertResult

app = typer.Typer()


@app.command("convert")
@takes(ConvertSettings, "convert")
def convert(settings: ConvertSettings, report: Report) -> None:
    """Write a network or a curve in the layout of another program.

    Tensors stay bit for bit what they are. What the layout has no place for is named in notes and in the JSON. `mcx
    curve convert` is another name of the command.

    Examples, after the first of mcx curve train:
      mcx convert runs/seed0/checkpoint-5.pt --layout bare --output state.pt
      mcx convert curve/checkpoints/checkpoint-5.pt --layout garipov --output theirs.pt

    More: mcx help compat.
    """
    from modeconn_cli.engine.commands import convert as engine

    report.run(engine.run, settings, table)


def table(result: ConvertResult) -> list[Block]:
    facts = {
        "from": result.checkpoint,
        "layout": f"{result.from_layout} -> {result.layout}",
        "holds": result.kind,
        "tensors": f"{result.num_tensors:,}",
        "left out": ", ".join(result.left_out) or "nothing",
    }
    return [Table(result.output, ("entry", "value"), tuple(facts.items()), text_columns=2)]
