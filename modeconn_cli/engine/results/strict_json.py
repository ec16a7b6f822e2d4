"""JSON as everybody reads it: no NaN, no infinity, no entry twice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeconn_cli.engine.errors import InputError


def text(document: Mapping[str, Any], indent: int | None = 2) -> str:
    """A document, indented for people or not; it must hold no NaN and no infinity."""
    return json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def parsed(text: str | bytes, path: Path, hint: str = "", *, line: int | None = None) -> Any:
    """The JSON value that a text of the file at `path` is: the one reader of JSON from files.

    Raises InputError with `hint` for what is none, and for entries that occur twice in an object, nesting that is too
    deep and numbers beyond every float. `line` is the number of the line that the text is, of a file of many.
    """
    try:
        return json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_object,
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError:
        reason: object = "it is nested too deeply"
    except ValueError as error:
        reason = error
    where = f"'{path}'" if line is None else f"'{path}', line {line},"
    raise InputError(f"{where} cannot be read: {reason}", hint)


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("it holds a number beyond every float")
    return number


def _int(digits: str) -> int:
    _float(digits)
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for k, (name, _) in enumerate(pairs) if name in dict(pairs[:k]))
        raise ValueError(f"'{twice[:80]}' occurs twice in one object")
    return found
