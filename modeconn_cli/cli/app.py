"""`mcx`: finds the command, runs it, and turns every known error into one line, a hint and an exit code."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Annotated

import typer

from modeconn_cli import __version__
from modeconn_cli.cli.commands import COMMANDS, GROUPS, first_words, inside, named
from modeconn_cli.cli.complete import flags_of
from modeconn_cli.cli.report import Output, PipeClosed, fail
from modeconn_cli.engine.errors import AGAIN, McxError, SettingsError, Stopped, did_you_mean

EXIT_CODES = """Exit codes: 0 done · 1 a bug · 2 wrong usage or settings · 3 input cannot be used ·
4 the answer is no · 5 output cannot be written · 75 stopped after saving, run the same command again ·
130, 143 interrupted · 141 the reader of the pipe has gone"""

INTERRUPTED = (130, 143)


def build(words: Sequence[str]) -> typer.Typer:
    """The command line application, with the named command in full and one line for every other."""
    app = typer.Typer(
        name="mcx",
        help="Mode connectivity and per-sample training dynamics of neural networks.",
        epilog=EXIT_CODES,
        rich_markup_mode=None,
        add_completion=False,
        # To look at an unset --help of its own costs Typer 0.1 s; the named command has one.
        add_help_option=not named(list(words)),
        pretty_exceptions_enable=False,
    )
    app.callback()(root)
    command = named(list(words))
    for name, text in first_words().items():
        if name != command.split(" ")[0]:
            app.command(name, help=text)(_nothing)
            continue
        commands = importlib.import_module(f"modeconn_cli.cli.{name}").app
        if name in GROUPS:
            for each in commands.registered_commands:  # a docstring's first line would be cut
                each.short_help = COMMANDS[f"{name} {each.name}"]
            app.add_typer(commands, name=name, help=text, add_help_option=" " not in command)
        else:
            app.registered_commands += commands.registered_commands
    return app


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"mcx {__version__}\n")
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version and stop", callback=_version, is_eager=True),
    ] = False,
) -> None:
    del version  # its callback has done the work


def _nothing() -> None:
    """Stands for a command that was not named."""


def normalise(words: Sequence[str]) -> list[str]:
    """Dashes for underscores in the names of long options, before `=`, not after a bare `--`."""
    out: list[str] = []
    for i, word in enumerate(words):
        if word == "--":
            return [*out, *words[i:]]
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = name.replace("_", "-") + equals + value
        out.append(word)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    words = normalise(sys.argv[1:] if argv is None else argv)
    if not words or words in ([group] for group in GROUPS):
        words.append("--help")
    try:
        with redirect_stdout(Output(sys.stdout)):
            code = _run(words, named(words))
    except PipeClosed:
        return 141
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        if end.code not in INTERRUPTED:
            raise
        code = int(end.code)
    if code in INTERRUPTED:  # while there was nothing to save; Typer makes a code of Ctrl-C itself
        fail(named(words), Stopped("stopped", AGAIN))
    return code


def _run(words: list[str], command: str) -> int:
    try:
        _check_command(words)
        code = build(words)(args=words, prog_name="mcx", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except McxError as error:
        _debug(error)
        return fail(command, error)
    except typer.TyperException as error:
        _debug(error)
        return fail(command, SettingsError(*_usage(error, command)))
    except typer.Abort as error:  # how Typer spells an EOFError, which is a bug here
        raise error.__cause__ or error from None


def _check_command(words: Sequence[str]) -> None:
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in first_words():
        raise SettingsError(f"unknown command '{first}'", did_you_mean(first, first_words()))


def _usage(error: typer.TyperException, command: str) -> tuple[str, str]:
    """Typer's message as ours, with the closest option or subcommand as hint."""
    message = re.sub(r" ?\(Possible options: .*\)$", "", " ".join(error.format_message().split()))
    unknown = re.match(r"No such option:? '?(-\S*?)'?\.?(?: Did you mean.*)?$", message)
    if unknown:
        known = flags_of(command) if command in COMMANDS else ("--help", "--version")
        return f"unknown option '{unknown[1]}'", did_you_mean(unknown[1], known)
    unknown = re.match(r"No such command '?([^'\s]*)'?\.?", message)
    if unknown:
        return f"unknown command '{unknown[1]}'", did_you_mean(unknown[1], inside(command))
    return message[:1].lower() + message[1:].rstrip("."), f"see 'mcx {command} --help'".replace("  ", " ")


def _debug(error: Exception) -> None:
    if os.environ.get("MCX_DEBUG"):
        raise error
