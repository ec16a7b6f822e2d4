"""`mcx doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Lines, Table
from modeconn_cli.engine.settings.doctor import DoctorSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.doctor import DoctorResult

app = typer.Typer()


@app.command("doctor")
@takes(DoctorSettings, "doctor")
def doctor(settings: DoctorSettings, report: Report) -> None:
    """Say whether this machine is fit: torch, devices, disk, shared memory, figures, packages.

    Every check tries the thing itself and says ok, note or problem with what to do; a problem is exit code 4.

    Examples:
      mcx doctor
      mcx doctor . --json

    More: mcx help environment.
    """
    from modeconn_cli.engine.commands import doctor as engine

    report.run(engine.run, settings, table)


def table(result: DoctorResult) -> list[Block]:
    rows = tuple((check.name, check.verdict, check.found) for check in result.checks)
    blocks: list[Block] = [Table("This machine", ("check", "verdict", "found"), rows, text_columns=3)]
    advice = tuple(f"{check.name}: {check.advice}" for check in result.checks if check.advice)
    return [*blocks, Lines(("What to do:", *advice))] if advice else blocks
