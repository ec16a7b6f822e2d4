"""A first look at a file that another tool has written: what it is made of, whatever its name."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import arrays, strict_json
from modeconn_cli.engine.results.parsing import opened, parsing

LONGEST = 1 << 24  # bytes of a line; a longer one is no record of a sample
_MARK = b"\xef\xbb\xbf"  # that some editors put before UTF-8


@dataclass(frozen=True)
class Look:
    """The form of a file, and the names in it: of columns, of a first object's entries, or of arrays.

    `axes` is how many a single array has.
    """

    path: Path
    form: Literal["csv", "jsonl", "npz", "npy"]
    names: tuple[str, ...]
    axes: int = 0

    def has(self, *names: str) -> bool:
        """Whether all of these are among the names."""
        return set(names) <= set(self.names)


def look(path: Path) -> Look:
    """Look at the beginning of a file. Raises InputError for what has none of the forms."""
    with opened(path) as stream:
        begin = stream.read(8).removeprefix(_MARK)
        stream.seek(0)
        first = b"" if begin[:2] == b"PK" or begin[:1] == b"\x93" else stream.readline(LONGEST)
    if begin[:2] == b"PK":
        with arrays.npz(path) as archive:
            return Look(path, "npz", tuple(archive))
    if begin[:1] == b"\x93":
        return Look(path, "npy", (), arrays.mapped(path).ndim)
    if begin.lstrip()[:1] == b"{":
        record = strict_json.parsed(first.removeprefix(_MARK), path, "it takes a whole object a line", line=1)
        return Look(path, "jsonl", tuple(record))
    with parsing(path, "table"):
        header = next(csv.reader([first.removeprefix(_MARK).decode("utf-8")]), [])
    if not header:
        raise InputError(f"'{path}' is empty")
    return Look(path, "csv", tuple(header))
