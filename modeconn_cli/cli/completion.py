"""`mcx completion`: the script that teaches a shell to complete `mcx`. It edits no file of the user's."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.engine.settings.completion import CompletionSettings

app = typer.Typer()

SCRIPTS = {"bash": "mcx.bash", "zsh": "_mcx", "fish": "mcx.fish"}
FOLDER = Path(__file__).parent / "completions"


@app.command("completion")
@takes(CompletionSettings, "completion")
def completion(settings: CompletionSettings, report: Report) -> None:
    """Print the completion script of a shell: bash, zsh or fish.

    Examples:
      mcx completion bash

    More: README.md, Completion.
    """
    del report  # the script itself is the output
    sys.stdout.write((FOLDER / SCRIPTS[settings.shell]).read_text("utf-8"))
    sys.stdout.flush()
