"""`mcx help`: the page of a command, or of a topic."""

from __future__ import annotations

import sys

import typer

from modeconn_cli.cli import pages
from modeconn_cli.cli.commands import COMMANDS, GROUPS, TOPICS, meant
from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report, fancy
from modeconn_cli.engine.errors import SettingsError, did_you_mean
from modeconn_cli.engine.settings.help import HelpSettings

app = typer.Typer()


@app.command("help")
@takes(HelpSettings, "help")
def help_(settings: HelpSettings, report: Report) -> None:
    """Explain a command with every flag of it, or a topic: exit-codes, environment, files, models, data, compat.

    Examples:
      mcx help curve train
      mcx help models

    More: README.md.
    """
    del report  # the text itself is the output
    name = " ".join(meant(list(settings.words)))
    if name not in ("", *COMMANDS, *GROUPS, *TOPICS):
        raise SettingsError(
            f"neither a command nor a topic: '{name}'", did_you_mean(name, [*COMMANDS, *GROUPS, *TOPICS])
        )
    if name in TOPICS:
        from rich.console import Console
        from rich.markdown import Markdown

        console = Console(width=pages.width(), no_color=not fancy(sys.stdout))
        console.print(Markdown(pages.topic(name), code_theme="bw", hyperlinks=False))
    else:
        sys.stdout.write(pages.page(name, everything=True))
    sys.stdout.flush()
