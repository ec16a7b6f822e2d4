"""Hashes of files that this process has read or written, by what tells one version of a file from another."""

from __future__ import annotations

import os
from pathlib import Path

_known: dict[tuple[str, int, int, int], str] = {}


def stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What changes with a file's content: size in bytes, time in ns, number on its disk."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def known(path: Path, status: os.stat_result) -> str | None:
    """The sha256 of a file that is as it was; None where it was never taken."""
    return _known.get((os.path.abspath(path), *stamp(status)))


def remember(path: Path, status: os.stat_result, digest: str) -> None:
    _known[os.path.abspath(path), *stamp(status)] = digest
