"""Logs of jobs: a record per line, as JSON. Their one writer, and their one reader."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import failpoints, files, strict_json
from modeconn_cli.engine.results.failpoints import failpoint

R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Line(Generic[R]):
    """A whole line of a log, counted from 1; `record` is None, and `damage` says why, where it is none."""

    number: int
    text: bytes
    record: R | None
    damage: str = ""


def read(path: Path, kind: type[R]) -> list[Line[R]]:
    """The lines of a log of `kind`, a dataclass; a last one that a kill has cut off is left out.

    Raises InputError for a file that the system does not let us read.
    """
    lines = []
    for number, text in enumerate(read_lines(path), start=1):
        try:
            lines.append(Line(number, text, record(kind, strict_json.parsed(text, path))))
        except (InputError, ValueError) as error:
            why = str(error).removeprefix(f"'{path}' ")
            lines.append(Line(number, text, None, f"line {number}: {why}"))
    return lines


def record(kind: type[R], value: Any) -> R:
    """The dataclass `kind` whose entries are those of a JSON object, each of its field's type.

    Raises ValueError for anything else.
    """
    if not isinstance(value, Mapping):
        raise ValueError("it is no object")
    whatever: Any = kind  # a type can be hashed, which a type variable does not tell
    hints = _hints(whatever)
    for name, item in value.items():
        if name not in hints:
            raise ValueError(f"'{str(name)[:80]}' is none of its entries")
        if not _fits(item, hints[name]):
            raise ValueError(f"'{name}' is {str(item)[:80]}")
    entries = {name: _built(item, hints[name]) for name, item in value.items()}
    try:
        return kind(**entries)
    except TypeError as error:  # an entry is missing
        raise ValueError(str(error).partition("() ")[2]) from None


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    known = get_type_hints(kind)
    return {field.name: known[field.name] for field in dataclasses.fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is one of a field's type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if hint is Any:
        return True
    if hint in (None, NoneType):
        return value is None
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, dict if dataclasses.is_dataclass(hint) else hint)


def _built(value: Any, hint: Any) -> Any:
    """The value, with records where the field's type has them."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return record(hint, value)
    if get_origin(hint) in (Union, UnionType) and isinstance(value, Mapping):
        fitting = next(each for each in get_args(hint) if _fits(value, each))
        return _built(value, fitting)
    if get_origin(hint) is list:
        return [_built(each, get_args(hint)[0]) for each in value]
    return value


def append_line(path: Path, line: str) -> None:
    """Add one line to a log, or nothing: a part of it that was written is taken back.

    A last line that a kill has cut off is cut away before. The line is on the disk afterwards.
    """
    rest = whole = (line + "\n").encode("utf-8")
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            end = _end_of_lines(handle)
            os.ftruncate(handle, end)
            os.lseek(handle, end, os.SEEK_SET)
            try:
                _fail(failpoint("logs.before_write"), handle, rest)
                while rest:  # a write may take a part only
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
            except BaseException:
                with contextlib.suppress(OSError):  # the next line does it then
                    os.ftruncate(handle, end)
                raise
        finally:
            os.close(handle)
        files.published(path)
        failpoint("logs.after_write")
    except OSError as error:
        raise files.refused(path, error, whole) from error


def _fail(how: str, handle: int, line: bytes) -> None:
    if how:
        os.write(handle, line[: len(line) // 2])
        if how == "torn":
            failpoints.power_fails()
        raise failpoints.no_space()


def _end_of_lines(handle: int) -> int:
    """How many bytes of a log are whole lines."""
    end = os.fstat(handle).st_size
    while end:
        begin = max(0, end - 4096)
        found = os.pread(handle, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def read_lines(path: Path) -> list[bytes]:
    """The complete lines of a log, none where it is not there; a last line that a kill cut off is dropped.

    Raises InputError where the system does not let it be read.
    """
    with files.reading(path):
        content = path.read_bytes() if path.exists() else b""
    return content.split(b"\n")[:-1]
