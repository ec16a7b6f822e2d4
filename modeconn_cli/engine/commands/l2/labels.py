"""Short names for checkpoints: `label=path`, else the file's stem, else its folder where stems collide, else both."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from modeconn_cli.engine.errors import SettingsError


def labelled(words: Sequence[Path]) -> dict[str, Path]:
    """label -> path, in the order given. A word is `label=path` only where no file has that whole name, and one
    has the rest.

    Raises SettingsError where two checkpoints would get one label, or a label cannot be a file name.
    """
    given = _split(words)
    alone = [path for label, path in given if label is None]
    stems = Counter(path.stem for path in alone)
    folders = Counter(path.resolve().parent.name for path in alone if stems[path.stem] > 1)
    out: dict[str, Path] = {}
    for label, path in given:
        folder = path.resolve().parent.name
        short = (
            path.stem
            if stems[path.stem] == 1
            else folder
            if folders[folder] == 1
            else f"{folder}_{path.stem}"
        )
        name = label or short
        if re.search(r"[/\\\x00-\x1f]", name) or name in (".", ".."):
            raise SettingsError(
                f"'{name}' cannot be part of a file name", "give it another label: label=path"
            )
        if name in out:
            raise SettingsError(f"two checkpoints are called '{name}'", "label them: label=path")
        out[name] = path
    return out


def paths(words: Sequence[Path]) -> list[Path]:
    """The paths alone, of words that may carry a label."""
    return [path for _, path in _split(words)]


def _split(words: Sequence[Path]) -> list[tuple[str | None, Path]]:
    """(label or None, path) of each word."""
    given: list[tuple[str | None, Path]] = []
    for word in words:
        before, equals, after = str(word).partition("=")
        # The label of a file that is not there is a label all the same.
        meant = os.path.lexists(after) or "/" in after
        is_label = equals and before and "/" not in before and meant and not os.path.lexists(word)
        given.append((before, Path(after)) if is_label else (None, word))
    return given
