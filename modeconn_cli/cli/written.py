"""The files that a command wrote, as its last lines name them. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

LISTED = 12  # lines at most


def lines(paths: Sequence[Path], most: int = LISTED) -> list[str]:
    """A line per file; files that differ by numbers share one, and so do those of a folder where lines are too many.

    >>> lines([Path("a/seed0/3.pt"), Path("a/seed1/3.pt"), Path("a/m.csv")])
    ['a/seed*/3.pt (2 files)', 'a/m.csv']
    >>> lines([Path("a/b/m.csv"), Path("a/b/n.csv"), Path("a/o.csv")], most=2)
    ['a/b/ (2 files)', 'a/o.csv']
    """
    alike: dict[str, list[Path]] = {}
    for path in paths:
        alike.setdefault(re.sub(r"\d+", "*", str(path)), []).append(path)
    # What is shown -> how many files; a folder ends in a slash.
    shown = {_pattern(group): len(group) for group in alike.values()}
    while len(shown) > most:
        depth = max(map(_depth, shown))
        if depth == 0:
            break
        folder = next(_folder(name) for name in shown if _depth(name) == depth)
        folded: dict[str, int] = {}
        for name, count in shown.items():
            into = folder if (_depth(name) == depth and _folder(name) == folder) or name == folder else name
            folded[into] = folded.get(into, 0) + count
        shown = folded
    return [name if _single(name, count) else f"{name} ({count} files)" for name, count in shown.items()]


def _pattern(paths: Sequence[Path]) -> str:
    """What paths have in common that differ by numbers, with `*` for those that do."""
    pieces = [re.split(r"(\d+)", str(path)) for path in paths]
    return "".join(each[0] if len(set(each)) == 1 else "*" for each in zip(*pieces, strict=True))


def _depth(name: str) -> int:
    return name.rstrip("/").count("/")


def _folder(name: str) -> str:
    return name.rstrip("/").rpartition("/")[0] + "/"


def _single(name: str, count: int) -> bool:
    return count == 1 and not name.endswith("/")
