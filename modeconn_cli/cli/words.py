"""What the words of a flag, a variable or a configuration file mean: every value is read here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from modeconn_cli.engine.errors import SettingsError, did_you_mean
from modeconn_cli.engine.registry import fold
from modeconn_cli.engine.settings.base import Spec

SHOWN = 40  # characters of a number that is none
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def parse(spec: Spec, text: str | list[str]) -> Any:
    """The value that `text` means for a setting. Raises SettingsError without the name of its source."""
    if spec.many:
        items = text if isinstance(text, list) else _items(text)
        return tuple(_one(spec, item.strip()) for item in items if item.strip())
    if isinstance(text, list):
        raise SettingsError("takes a single value, got a list")
    return _one(spec, text)


def _items(text: str) -> list[str]:
    """The parts of a comma-listed text; commas in brackets or quotes do not separate: `depths=(2, 2),name='a,b'`."""
    items, depth, quote = [""], 0, ""
    for letter in text:
        if letter == "," and not depth and not quote:
            items.append("")
            continue
        items[-1] += letter
        if quote or letter in "'\"":
            quote = "" if letter == quote else quote or letter
        else:
            depth = max(depth + (letter in "([{") - (letter in ")]}"), 0)
    return items if not depth and not quote else text.split(",")  # a lone quote is a letter like any other


def _one(spec: Spec, text: str) -> Any:
    if spec.choices:
        return _choice(spec.choices, text)
    if spec.kind is bool:
        word = text.strip().casefold()
        if word not in TRUE + FALSE:
            raise SettingsError(f"'{text}' is neither true nor false")
        return word in TRUE
    if spec.kind in (int, float):
        try:
            return spec.kind(text)
        except ValueError:
            what = "a whole number" if spec.kind is int else "a number"
            shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
            raise SettingsError(f"'{shown}' is not {what}", _share(text)) from None
    return _path(text) if spec.kind is Path else spec.kind(text)


def _share(text: str) -> str:
    """The number that a percentage is, as a hint."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    return f"write {float(found[1]) / 100:g}" if found else ""


def _path(text: str) -> Path:
    """`~/` is the home directory, as records write it; a shell has replaced it in a flag already."""
    if not text or "\0" in text:
        raise SettingsError("is not a path")
    return Path(os.path.expanduser(text) if text == "~" or text.startswith("~/") else text)


def _choice(choices: tuple[str, ...], text: str) -> str:
    """Names are matched without case, dashes and underscores: `Bezier` is `bezier`."""
    folded = {fold(choice): choice for choice in choices}
    if fold(text) not in folded:
        raise SettingsError(f"'{text}' is not one of {', '.join(choices)}", did_you_mean(text, choices))
    return folded[fold(text)]
