"""`mcx status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Table
from modeconn_cli.engine.settings.status import StatusSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.status import StatusResult

app = typer.Typer()


@app.command("status")
@takes(StatusSettings, "status")
def status(settings: StatusSettings, report: Report) -> None:
    """Say how far the jobs of a folder are, for scripts: 0 complete, 75 not yet, 3 failed, damaged or no job at all.

    Examples, after the first of mcx train:
      mcx status runs

    More: mcx help exit-codes.
    """
    from modeconn_cli.engine.commands import status as engine

    report.run(engine.run, settings, table)


def table(result: StatusResult) -> list[Block]:
    rows = tuple((job.job, job.state, job.since or "n/a", str(job.files), job.reason) for job in result.jobs)
    return [Table(result.folder, ("job", "state", "since", "files", "why"), rows, text_columns=3)]
