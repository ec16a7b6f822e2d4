"""`mcx status`."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Lines, Table
from modeconn_cli.engine.settings.status import StatusSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.status import JobStatus, Progress, StatusResult

app = typer.Typer()


@app.command("status")
@takes(StatusSettings, "status")
def status(settings: StatusSettings, report: Report) -> None:
    """Say how far the jobs of a folder, and of all folders in it, are.

    For scripts: 0 where all are complete, 75 where one is not yet, 3 where one failed or is damaged, and where there
    is none.

    Examples, after the first of mcx train:
      mcx status runs
      mcx status runs --verify

    More: mcx help exit-codes.
    """
    from modeconn_cli.engine.commands import status as engine

    report.run(engine.run, settings, table)


def table(result: StatusResult) -> list[Block]:
    columns = ("folder", "job", "state", "progress", "rate", "last sign of life")
    rows = tuple(_row(job) for job in result.jobs)
    blocks: list[Block] = [Table(result.folder, columns, rows, text_columns=3, keys=2)]
    reasons = [f"{job.folder} {job.job}: {job.reason}" for job in result.jobs if job.reason]
    following = list(dict.fromkeys(f"  {job.next}" for job in result.jobs if job.next))
    if reasons:
        blocks.append(Lines(tuple(reasons)))
    if following:
        blocks.append(Lines(("To go on:", *following)))
    return blocks


def _row(job: JobStatus) -> tuple[str, ...]:
    return (
        job.folder,
        job.job,
        job.state,
        "n/a" if job.progress is None else _done(job.progress),
        "n/a" if job.progress is None else _rate(job.progress),
        _local(job.last_sign),
    )


def _done(progress: Progress) -> str:
    return f"{progress.unit} {progress.done}/{'?' if progress.total is None else progress.total}"


def _rate(progress: Progress) -> str:
    rate, unit = progress.per_second, progress.unit
    if not rate:
        return "n/a"
    return f"{rate:.3g} {unit}s/s" if rate >= 1 else f"{1 / rate:.3g} s/{unit}"


def _local(time: str | None) -> str:
    """The time as this machine's clock shows it."""
    if time is None:
        return "n/a"
    try:
        return f"{datetime.datetime.fromisoformat(time).astimezone():%Y-%m-%d %H:%M:%S}"
    except ValueError:
        return time
