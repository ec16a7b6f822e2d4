"""Answers to the TAB key, from the tables alone: neither Typer nor torch is imported.

A shell asks with `_MCX_COMPLETE=complete_<shell>`, `COMP_WORDS` (the words, one per line) and `COMP_CWORD` (the
number of the word being typed). Nothing but candidates is printed, or `:files` where a file is wanted.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from modeconn_cli.cli.commands import (
    COMMANDS,
    DISPLAY,
    GROUPS,
    HELP,
    HELP_FLAGS,
    TOPICS,
    first_words,
    inside,
    named,
)
from modeconn_cli.engine.names import file_of
from modeconn_cli.engine.registry import DATASETS, FOLDERS, LIBRARIES, MODELS
from modeconn_cli.engine.settings.base import Settings, specs

VARIABLE = "_MCX_COMPLETE"
FILES = ":files"  # the answer where the shell's own names of files fit
LARGEST = 64 << 20  # bytes of a checkpoint's table of contents that are worth a TAB

# Settings that take any word, and the words that are known.
KNOWN = {
    "model": [*MODELS, *(f"{library}:" for library in LIBRARIES)],
    "dataset": [*DATASETS, *FOLDERS],
    "device": ["auto", "cpu", "cuda"],
    "words": [*first_words(), *TOPICS],
}


def settings_of(command: str) -> type[Settings]:
    """The settings class of a command."""
    module = importlib.import_module(f"modeconn_cli.engine.settings.{command.split()[0]}")
    found: type[Settings] = getattr(module, command.title().replace(" ", "") + "Settings")
    return found


def flags_of(command: str) -> dict[str, str]:
    """The long flags of a command, each with its help."""
    out: dict[str, str] = {}
    for spec in specs(settings_of(command)):
        if not spec.positional:
            flags = (spec.flag, *spec.flags, *([spec.negation] if spec.negation else []))
            out |= dict.fromkeys(flags, spec.help)
    return out | {each.flag: each.help for each in DISPLAY.values()} | dict.fromkeys(HELP_FLAGS[1:], HELP)


def candidates(words: list[str], current: str) -> dict[str, str]:
    """What can stand in the place of `current` after `words` (without `mcx`), with help."""
    command = named(words)
    found: Mapping[str, str]
    if command in COMMANDS:
        flags = current.startswith("-")
        found = flags_of(command) if flags else dict.fromkeys(_values(command, words, current), "")
    elif command in GROUPS:
        found = inside(command)
    elif any(not word.startswith("-") for word in words):
        found = {}
    else:
        found = {"--help": "", "--version": ""} if current.startswith("-") else first_words()
    return {name: text for name, text in found.items() if name.startswith(current)}


def _values(command: str, words: list[str], current: str) -> list[str]:
    """The values of the option before the cursor, or those of a positional argument."""
    previous = words[-1].replace("_", "-") if words else ""
    if previous == "--config":
        return _yaml_files(current)
    known = specs(settings_of(command))
    spec = next((s for s in known if previous in (s.flag, *s.flags) and s.kind is not bool), None)
    if spec is None:
        return [word for s in known if s.positional for word in s.choices or KNOWN.get(s.name, ())]
    if spec.name == "layer_name":
        typed = _typed(words, "--checkpoint")
        return _layers(None if typed is None else file_of(typed))
    return list(spec.choices) or KNOWN.get(spec.name, [])


def _wants_file(words: list[str], current: str) -> bool:
    """Whether a file fits in the place of `current`: as the value of an option, or as a word without a flag."""
    command = named(words)
    if command not in COMMANDS:
        return False
    known = specs(settings_of(command))
    previous, (flag, equals, _) = words[-1].replace("_", "-") if words else "", current.partition("=")
    option = flag.replace("_", "-") if equals and flag.startswith("--") else previous
    spec = next((s for s in known if option in (s.flag, *s.flags) and s.kind is not bool), None)
    if spec is not None:
        return spec.kind is Path or spec.name == "dataset"
    if option == "--config":
        return bool(equals)  # those of a word of its own are listed
    words_too = bool(settings_of(command).places) or any(s.positional and s.kind is Path for s in known)
    return words_too and not current.startswith("-")


def _typed(words: list[str], flag: str) -> Path | None:
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
                entry = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                if archive.getinfo(entry).file_size > LARGEST:
                    return []
                values = (value for _, value, _ in pickletools.genops(archive.read(entry)))
                names = [value for value in values if isinstance(value, str)]
    except (
        OSError,
        ValueError,
        RecursionError,
        StopIteration,
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
    ):
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
    current = "" if current == "=" else current
    found = candidates(before, current)
    if not found and _wants_file(before, current):
        return f"{FILES}\n"
    if shell == "bash":
        return "".join(f"{name}\n" for name in found)
    return "".join(f"{name}\t{text}\n" if text else f"{name}\n" for name, text in found.items())
