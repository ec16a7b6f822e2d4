"""Answers to the TAB key, from the tables alone: neither Typer nor torch is imported.

A shell asks with `_MCX_COMPLETE=complete_<shell>`, `COMP_WORDS` (the words, one per line) and `COMP_CWORD` (the
number of the word being typed). Nothing but candidates is printed; none means files.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from modeconn_cli.cli.commands import COMMANDS, first_words, named
from modeconn_cli.engine.registry import DATASETS, FOLDERS, LIBRARIES, MODELS
from modeconn_cli.engine.settings.base import Settings, Spec, specs

VARIABLE = "_MCX_COMPLETE"
LARGEST = 64 << 20  # bytes of a checkpoint's table of contents that are worth a TAB

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
        if any(not word.startswith("-") for word in words) and not inside:
            return {}
        if not current.startswith("-"):
            found = {name: text for name, text in found.items() if not name.startswith("-")}
    elif current.startswith("-"):
        found = flags_of(command)
    else:
        found = dict.fromkeys(_values(command, words, current), "")
    return {name: text for name, text in found.items() if name.startswith(current)}


def _values(command: str, words: list[str], current: str) -> list[str]:
    """The values of the option before the cursor, or those of a positional argument."""
    previous = words[-1].replace("_", "-") if words else ""
    if previous == "--config":
        return _yaml_files(current)
    known = specs(settings_of(command))
    spec = next((s for s in known if previous in (s.flag, *s.flags) and s.kind is not bool), None)
    if spec is None:
        return [choice for s in known if s.positional for choice in s.choices]
    if spec.name == "layer_name":
        return _layers(_given(words, "--checkpoint"))
    return list(spec.choices) or _names(spec)


def _names(spec: Spec) -> list[str]:
    return {
        "model": [*MODELS, *(f"{library}:" for library in LIBRARIES)],
        "dataset": [*DATASETS, *FOLDERS],
        "device": ["auto", "cpu", "cuda"],
    }.get(spec.name, [])


def _given(words: list[str], flag: str) -> Path | None:
    """The value of a flag on the line."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == flag and following:
            return Path(following).expanduser()
        if word.startswith(f"{flag}="):
            return Path(word.partition("=")[2]).expanduser()
    return None


def _yaml_files(current: str) -> list[str]:
    folder, slash, _ = current.rpartition("/")
    try:
        found = sorted(Path(folder or ("/" if slash else ".")).iterdir())
    except OSError:
        return []
    prefix = f"{folder}/" if slash else ""
    files = [f"{prefix}{path.name}" for path in found if path.suffix in (".yaml", ".yml")]
    return files + [
        f"{prefix}{path.name}/" for path in found if path.is_dir() and not path.name.startswith(".")
    ]


def _layers(checkpoint: Path | None) -> list[str]:
    """The layers of a checkpoint: the modules with a weight, read off its strings without loading it."""
    import json
    import pickletools
    import zipfile

    if checkpoint is None:
        return []
    try:
        if checkpoint.suffix == ".safetensors":
            with checkpoint.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                names = list(json.loads(stream.read(size))) if size < LARGEST else []
        else:
            with zipfile.ZipFile(checkpoint) as archive:
                inside = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                if archive.getinfo(inside).file_size > LARGEST:
                    return []
                names = [
                    str(value)
                    for _, value, _ in pickletools.genops(archive.read(inside))
                    if isinstance(value, str)
                ]
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile, RuntimeError, NotImplementedError):
        return []
    return list(dict.fromkeys(name.removesuffix(".weight") for name in names if name.endswith(".weight")))


def answer(environment: Mapping[str, str]) -> str:
    """The text a shell gets: one candidate a line, with a tab and its help where the shell shows help."""
    shell = environment.get(VARIABLE, "").removeprefix("complete_")
    line = environment.get("COMP_WORDS", "")
    words = line.split("\n") if "\n" in line else line.split(" ")
    try:
        place = int(environment.get("COMP_CWORD", ""))
    except ValueError:
        place = len(words) - 1
    # bash cuts `--flag=value` into three words.
    before = [word for word in words[1:place] if word not in ("", "=")]
    current = words[place] if 0 <= place < len(words) else ""
    found = candidates(before, "" if current == "=" else current)
    if shell == "bash":
        return "".join(f"{name}\n" for name in found)
    return "".join(f"{name}\t{text}\n" if text else f"{name}\n" for name, text in found.items())
