"""`mcx`: finds the command, runs it, and turns every known error into one line, a hint and an exit code."""

from __future__ import annotations

import errno
import importlib
import itertools
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

import typer

from modeconn_cli import __version__
from modeconn_cli.cli import pages
from modeconn_cli.cli.commands import COMMANDS, GROUPS, HELP_FLAGS, first_words, inside, meant, named
from modeconn_cli.cli.complete import flags_of, settings_of
from modeconn_cli.cli.report import Output, PipeClosed, fail
from modeconn_cli.engine.errors import (
    AGAIN,
    InputError,
    McxError,
    OutputError,
    SettingsError,
    Stopped,
    did_you_mean,
)
from modeconn_cli.engine.settings.base import specs

INTERRUPTED = (130, 143)
DISK = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
)  # what a disk says, and no bug of ours does


def build(command: str) -> typer.Typer:
    """The application with the named command alone: to import all of them takes seconds."""
    # Help is written by `pages`, so that it shows what a command answers first and needs no Typer.
    app = typer.Typer(
        rich_markup_mode=None, add_completion=False, add_help_option=False, pretty_exceptions_enable=False
    )
    app.callback()(root)
    name = command.split(" ")[0]
    if name:
        commands = importlib.import_module(f"modeconn_cli.cli.{name}").app
        if name in GROUPS:
            app.add_typer(commands, name=name, add_help_option=False)
        else:
            app.registered_commands += commands.registered_commands
        for each in commands.registered_commands:
            each.add_help_option = False
    return app


def root() -> None:
    """Makes a group of a single command, whose name is typed."""


def asked(words: Sequence[str]) -> str | None:
    """The text that a flag asks for in the place of everything else: a page of help, or the version."""
    flags = list(itertools.takewhile(lambda word: word != "--", words))
    if not flags or flags in ([group] for group in GROUPS) or any(flag in flags for flag in HELP_FLAGS):
        _check_command(words)
        return pages.page(named(flags), everything="--help-all" in flags)
    return f"mcx {__version__}\n" if flags[0] in ("-V", "--version") else None


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
    words = meant(normalise(sys.argv[1:] if argv is None else argv))
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
        text = asked(words)
        if text is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return 0
        _check_command(words)
        _check_place()
        code = build(command)(args=words, prog_name="mcx", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except McxError as error:
        _debug(error)
        return fail(command, error)
    except typer.TyperException as error:
        _debug(error)
        return fail(command, SettingsError(*_usage(error, command)))
    except OSError as error:
        if error.errno not in DISK or error.filename is None:
            raise
        return fail(command, OutputError(f"'{error.filename}': {error.strerror}"))
    except typer.Abort as error:  # how Typer spells an EOFError, which is a bug here
        raise error.__cause__ or error from None


def _check_place() -> None:
    """Raises InputError in a working directory that was removed, where no relative path leads anywhere."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"the working directory is gone: {error.strerror}", "change into another one"
        ) from error


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
    hint = f"see 'mcx {command} --help'".replace("  ", " ")
    if message.startswith("Got unexpected extra argument") and command in COMMANDS:
        one = next((s.name.upper() for s in specs(settings_of(command)) if s.positional and not s.many), None)
        hint = hint if one is None else f"one {one} at a time; {hint}"
    return message[:1].lower() + message[1:].rstrip("."), hint


def _debug(error: Exception) -> None:
    if os.environ.get("MCX_DEBUG"):
        raise error
