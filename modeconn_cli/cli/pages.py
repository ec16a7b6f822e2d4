"""What `--help`, `--help-all` and `mcx help` show: written from the settings, without torch."""

from __future__ import annotations

import importlib
import inspect
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from modeconn_cli.cli.commands import (
    COMMANDS,
    DISPLAY,
    EXIT_CODES,
    GROUPS,
    HELP,
    HELP_FLAGS,
    TOPICS,
    first_words,
    inside,
)
from modeconn_cli.cli.complete import settings_of
from modeconn_cli.engine.registry import DATASETS, FOLDERS, MODELS
from modeconn_cli.engine.settings.base import Panel, Spec, specs

METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
EXAMPLE, BROKEN = "  mcx ", " \\\n      "  # how a command line begins, and goes on
TEXTS = Path(__file__).parent / "topics"
COLUMN = 26  # where what a flag means begins
LONG = 56  # letters of choices; more of them stand in the text
WIDEST = 110  # beyond it lines are hard to follow

ABOUT = "Mode connectivity and per-sample training dynamics of neural networks."


def width() -> int:
    """Columns of the terminal, 80 where there is none."""
    return max(40, min(shutil.get_terminal_size().columns, WIDEST))


def page(name: str, *, everything: bool = False) -> str:
    """The help of a command, of a group of them, or of `mcx` itself (empty `name`).

    `everything` shows the rare flags of a command too.
    """
    lines = _command(name, everything) if name in COMMANDS else _overview(name)
    return "\n".join(lines) + "\n"


def topic(name: str) -> str:
    """The page of a topic in Markdown, with the tables that the code itself goes by."""
    text = (TEXTS / f"{name}.md").read_text("utf-8")
    tables = {
        "{exit_codes}": "\n".join(f"- {code}: {meaning}" for code, meaning in EXIT_CODES.items()),
        "{models}": ", ".join(f"`{each}`" for each in MODELS),
        "{datasets}": ", ".join(f"`{each}`" for each in [*DATASETS, *FOLDERS]),
    }
    for place, table in tables.items():
        text = text.replace(place, table)
    return text


def _overview(group: str) -> Iterator[str]:
    """The commands that can follow, and where to read more."""
    yield f"Usage: mcx {group} COMMAND [OPTIONS]".replace("  ", " ")
    yield ""
    yield from _filled(GROUPS.get(group, ABOUT))
    yield ""
    yield "Commands:"
    yield from _columns(list((inside(group) if group else first_words()).items()))
    if not group:
        yield ""
        yield from _filled(f"More: mcx COMMAND --help, and mcx help {'|'.join(TOPICS)}.")
        yield ""
        yield "Options:"
        yield from _columns(
            [("-h, --help", "show this page"), ("-V, --version", "print the version and stop")]
        )
        yield ""
        codes = " · ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
        yield from _filled(f"Exit codes: {codes}")


def _command(command: str, everything: bool) -> Iterator[str]:
    cls = settings_of(command)
    known = specs(cls)
    yield f"Usage: {usage(command)}"
    yield ""
    yield from described(command, everything)
    rare = 0 if everything else sum(spec.rare for spec in known)
    for panel in get_args(Panel):
        chosen = [spec for spec in known if spec.panel == panel]
        shown = [spec for spec in chosen if everything or not spec.rare]
        rows = [(_flags(spec, everything), _text(spec)) for spec in shown]
        if panel == "Settings and help":
            rows += _display(everything, rare)
        if rows:
            yield ""
            yield f"{panel}:"
            yield from _columns(rows)


def usage(command: str) -> str:
    """How a command is typed: `mcx swap [CHECKPOINT] [OPTIONS]`."""
    cls = settings_of(command)
    words = [f"[{' '.join(map(str.upper, names))}]" for names in cls.places]
    words = (
        ["[" + " | ".join(word.strip("[]") for word in words) + f"{'…' * bool(cls.more)}]"] if words else []
    )
    for spec in specs(cls):
        if spec.positional:
            word = spec.name.upper() + ("…" if spec.many else "")
            words.append(word if spec.missing else f"[{word}]")
    return " ".join(["mcx", command, *words, "[OPTIONS]"])


def described(command: str, everything: bool = False) -> Iterator[str]:
    """What a command's function says of it: paragraphs are filled, indented lines stay as they are.

    What follows the paragraph `More:` is for those who ask for everything.
    """
    text = inspect.cleandoc(function_of(command).__doc__ or "")
    if not everything:
        before, more, after = text.partition("\n\nMore: ")
        text = before + more + after.partition("\n\n")[0]
    for i, part in enumerate(text.split("\n\n")):
        if i:
            yield ""
        lines = part.split("\n")
        plain = [line for line in lines if not line.startswith(" ")]
        if plain == lines:
            yield from _filled(" ".join(lines))
            continue
        for line in lines:
            yield from _broken(line) if line.startswith(EXAMPLE) else [line]


def examples(command: str) -> list[str]:
    """The command lines in a command's help, each as one line."""
    text = "\n".join(described(command)).replace(BROKEN, " ")
    return [line.strip() for line in text.split("\n") if line.startswith(EXAMPLE)]


def _broken(line: str) -> list[str]:
    """A command line over as many lines as it needs, as a shell takes it."""
    lines = textwrap.wrap(
        line, width() - 2, subsequent_indent=" " * 6, break_on_hyphens=False, break_long_words=False
    )
    return "\n".join(lines).replace("\n      ", BROKEN).split("\n")


def function_of(command: str) -> Any:
    """The function that runs a command."""
    module = importlib.import_module(f"modeconn_cli.cli.{command.split()[0]}")
    return next(each.callback for each in module.app.registered_commands if each.name == command.split()[-1])


def _flags(spec: Spec, everything: bool) -> str:
    if spec.positional:
        return spec.name.upper() + ("…" if spec.many else "")
    names = [spec.flag, *(spec.flags if everything else ())]
    if spec.kind is bool:
        return "/".join(names + ([spec.negation] if spec.negation else []))
    value = "|".join(spec.choices) or METAVARS[spec.kind]
    if len(value) > LONG:
        value = "NAME"
    return f"{', '.join(names)} {value}{',…' if spec.many else ''}"


def _text(spec: Spec) -> str:
    if spec.missing:
        return f"{spec.help}  [required]"
    shown = spec.shown or _shown(spec.default)
    choices = f": {', '.join(spec.choices)}" if len("|".join(spec.choices)) > LONG else ""
    return f"{spec.help}{choices}{f'  [default: {shown}]' if shown else ''}"


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else ""
    if default is None or default == ():
        return ""
    return ",".join(map(str, default)) if isinstance(default, tuple) else f"{default}"


def _display(everything: bool, hidden: int) -> list[tuple[str, str]]:
    shown = [each for each in DISPLAY.values() if everything or not each.rare]
    hidden += len(DISPLAY) - len(shown)
    text = f"this page; --help-all: {hidden} more flags" if hidden else HELP
    return [
        *((f"{', '.join((*each.short, each.flag))} {each.metavar}".rstrip(), each.help) for each in shown),
        (", ".join(HELP_FLAGS), text),
    ]


def _columns(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Words and what they mean, side by side; a long word has a line of its own."""
    column = min(COLUMN, max(len(word) for word, _ in rows) + 4)
    for word, text in rows:
        lines = textwrap.wrap(text, width() - column, break_on_hyphens=False)
        if len(word) + 4 > column:
            yield f"  {word}"
        else:
            yield f"  {word}".ljust(column) + (lines.pop(0) if lines else "")
        for line in lines:
            yield " " * column + line


def _filled(text: str) -> list[str]:
    return textwrap.wrap(text, width(), break_on_hyphens=False, break_long_words=False)
