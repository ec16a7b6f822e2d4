"""Answers to the TAB key, from the tables alone: neither Typer nor torch is imported.

A shell asks with `_MCX_COMPLETE=complete_<shell>`, `COMP_WORDS` (the words, one per line or space) and
`COMP_CWORD` (the number of the word being typed). Nothing but candidates is printed; none means files.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from modeconn_cli.cli.commands import COMMANDS, first_words, named
from modeconn_cli.engine.registry import DATASETS, MODELS
from modeconn_cli.engine.settings.base import Settings, Spec, specs

VARIABLE = "_MCX_COMPLETE"

DISPLAY = {
    "--config": "read settings from a YAML file",
    "--print-config": "print the settings and stop",
    "--dry-run": "say what would be done and stop",
    "--json": "print the result as JSON",
    "--quiet": "no progress and no notes",
    "--verbose": "more notes",
    "--help": "show the help and stop",
}


def settings_of(command: str) -> type[Settings]:
    """The settings class of a command."""
    module, name = COMMANDS[command].settings.split(":")
    found: type[Settings] = getattr(importlib.import_module(f"modeconn_cli.engine.settings.{module}"), name)
    return found


def flags_of(command: str) -> dict[str, str]:
    """The long flags of a command, each with its help."""
    out: dict[str, str] = {}
    for spec in specs(settings_of(command)):
        if spec.positional:
            continue
        for flag in (spec.flag, *spec.flags):
            out[flag] = spec.help
        if spec.kind is bool and (spec.default is not False or spec.optional):
            out[f"--no-{spec.flag[2:]}"] = spec.help
    return {**out, **DISPLAY}


def candidates(words: list[str], current: str) -> dict[str, str]:
    """What can stand in the place of `current` after `words` (without `mcx`), with help."""
    command = named(words)
    if command not in COMMANDS:
        inside = {
            name.split()[1]: c.help for name, c in COMMANDS.items() if command and name.split()[0] == command
        }
        found: Mapping[str, str] = inside or ({"--help": "", "--version": ""} | first_words())
        if not current.startswith("-"):
            found = {name: text for name, text in found.items() if not name.startswith("-")}
    elif current.startswith("-"):
        found = flags_of(command)
    else:
        previous = words[-1].replace("_", "-") if words else ""
        spec = next((s for s in specs(settings_of(command)) if previous in (s.flag, *s.flags)), None)
        found = dict.fromkeys(_values(spec), "") if spec is not None else {}
    return {name: text for name, text in found.items() if name.startswith(current)}


def _values(spec: Spec) -> tuple[str, ...]:
    names = {"model": tuple(MODELS), "dataset": tuple(DATASETS), "device": ("auto", "cpu", "cuda")}
    return spec.choices or names.get(spec.name, ())


def answer(environment: Mapping[str, str]) -> str:
    """The text a shell gets: one candidate a line, with a tab and its help where the shell shows help."""
    shell = environment.get(VARIABLE, "").removeprefix("complete_")
    words = environment.get("COMP_WORDS", "").replace("\n", " ").split(" ")
    try:
        place = int(environment.get("COMP_CWORD", ""))
    except ValueError:
        place = len(words) - 1
    current = words[place] if 0 <= place < len(words) else ""
    found = candidates([word for word in words[1:place] if word], current)
    if shell == "bash":
        return "".join(f"{name}\n" for name in found)
    return "".join(f"{name}\t{text}\n" if text else f"{name}\n" for name, text in found.items())
