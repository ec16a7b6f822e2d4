"""`--nproc-per-node`: one command line, several processes of this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from modeconn_cli.cli.report import PipeClosed, Report, fail
from modeconn_cli.engine.errors import AGAIN, McxError, SettingsError
from modeconn_cli.engine.machine import launch, places


def run(settings: Any, report: Report, function: Callable[..., None]) -> None:
    """Run the command in several processes of this machine; raises typer.Exit with their exit code."""
    if settings.dist == "off":
        raise SettingsError("--nproc-per-node starts processes that share the work", "leave out --dist off")
    if places.find(os.environ) is not None:
        raise SettingsError(
            "--nproc-per-node starts processes, and torchrun or srun has started some already", "leave it out"
        )

    def body() -> McxError | int:
        try:
            function(settings, report)
            sys.stdout.flush()
        except McxError as error:
            return error
        except PipeClosed:
            return 141
        return 0

    ended = launch.launch(launch.count(settings.nproc_per_node, settings.device), body)
    errors = ended.errors[:1]
    if ended.code in (130, 143):
        errors = ()  # as of every command that is interrupted
    elif signal := launch.name_of(ended.code):  # what the others say then is that they were ended
        again = f"what is finished is kept: {AGAIN}"
        errors = (McxError(f"a process was ended by {signal}", again),)
    for error in errors:
        fail(report.command, error)
    raise typer.Exit(ended.code)
