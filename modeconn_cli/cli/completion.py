"""`mcx completion`: the script that teaches a shell to complete `mcx`. It edits no file of the user's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.completion import CompletionSettings

app = typer.Typer()

SCRIPTS = {"bash": "mcx.bash", "zsh": "_mcx", "fish": "mcx.fish"}
FOLDER = Path(__file__).parent / "completions"
# The line that loads a shell's script, the file it belongs into, and where in it.
LINES = {
    "bash": ("source <(mcx completion bash)", "~/.bashrc", ""),
    "zsh": ("source <(mcx completion zsh)", "~/.zshrc", ", after 'autoload -Uz compinit; compinit'"),
    "fish": ("mcx completion fish | source", "~/.config/fish/config.fish", ""),
}


@app.command("completion")
@takes(CompletionSettings, "completion")
def completion(settings: CompletionSettings, report: Report) -> None:
    """Print the completion script of a shell, or with install the line to add to the shell's own file.

    No file is edited.

    Examples:
      mcx completion bash
      mcx completion install zsh

    More: README.md, Completion.
    """
    if settings.shell == "install":
        shell = settings.of or _shell()
        line, file, place = LINES[shell]
        report.note(f"for {shell}, add this line to {_meant(shell, file)}{place}, and open a new shell:")
        sys.stdout.write(f"{line}\n")
    else:
        sys.stdout.write(
            (FOLDER / SCRIPTS[settings.shell]).read_text("utf-8")
        )  # the script itself is the output
    sys.stdout.flush()


def _shell() -> str:
    """The shell that $SHELL names. Raises SettingsError for one without a script."""
    name = os.path.basename(os.environ.get("SHELL", ""))
    if name not in LINES:
        said = f"$SHELL is '{name}'" if name else "$SHELL is not set"
        raise SettingsError(f"which shell? {said}", "mcx completion install bash, zsh or fish")
    return name


def _meant(shell: str, file: str) -> str:
    """The file that a shell reads, where a variable says it lies elsewhere."""
    if shell == "zsh" and os.environ.get("ZDOTDIR"):
        return str(Path(os.environ["ZDOTDIR"]) / ".zshrc")
    if shell == "fish" and os.environ.get("XDG_CONFIG_HOME"):
        return str(Path(os.environ["XDG_CONFIG_HOME"]) / "fish/config.fish")
    return file
