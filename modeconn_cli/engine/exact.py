"""Sample ids and labels of any source as int64: exactly the numbers that were given, or refused.

Every check is made on the values as they come, before anything is cast: a cast makes 0 of 0.5, and two samples one.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from modeconn_cli.engine.errors import InputError

NUMBER_SAMPLES = "number the samples 0, 1, 2 … and keep their names in a table beside"
NUMBER_CLASSES = "number the classes, for example by np.unique(labels, return_inverse=True)[1]"
ONE_CLASS = "mcx knows one class per sample: give its number"

_BITS = np.iinfo(np.int64)
_SHOWN = 40  # characters of a value that is refused
_WHOLE = re.compile(r"\s*[+-]?\d{1,19}(\.0*)?\s*", re.ASCII)


class Labels(NamedTuple):
    """`numbers` int64 [N]; `classes` is the number of columns where the labels were one-hot."""

    numbers: np.ndarray
    classes: int | None


def array(values: Any, where: str, what: str) -> np.ndarray:
    """NumPy's view of a tensor, an array or a list. Raises InputError for lists of unequal lengths."""
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            return np.asarray(values.float() if "bfloat16" in str(values.dtype) else values)
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{where}: {what} are no array: lists of unequal lengths") from error


def ids(
    values: Any, where: str, *, repeats: bool = False, what: str = "sample ids", spelled: bool = False
) -> np.ndarray:
    """Sample ids, int64 [N], none of them negative; 7 and 7.0 are the same, and "7" where they may be `spelled`.

    Raises InputError for anything else and, unless `repeats`, for duplicates: it names the first offender and how many
    there are.

    >>> ids([3.0, 1.0], "the file").tolist()
    [3, 1]
    """
    found = _whole(_column(array(values, where, what)), where, what, spelled, NUMBER_SAMPLES)
    if not repeats and not (found[1:] > found[:-1]).all():
        kept, first = np.unique(found, return_index=True)
        if len(kept) < len(found):
            again = np.ones(len(found), dtype=bool)
            again[first] = False
            raise InputError(
                f"{where} holds {int(again.sum()):,} duplicate {what}: the first is {found[again][0]}"
            )
    return found


def labels(values: Any, where: str) -> Labels:
    """Class numbers [N] or [N, 1], False and True among them, or one-hot rows [N, C].

    Raises InputError for fractions, text, negative numbers, several classes of one sample and shares of classes.

    >>> labels([[0, 1], [1, 0]], "the file")
    Labels(numbers=array([1, 0]), classes=2)
    """
    given = _column(array(values, where, "labels"))
    if given.ndim == 2 and given.dtype.kind in "biuf":
        return Labels(_of_one_hot(given, where), given.shape[1])
    if given.dtype.kind == "b":
        given = given.astype(np.int64)
    return Labels(_whole(given, where, "labels", False, NUMBER_CLASSES), None)


def _column(values: np.ndarray) -> np.ndarray:
    """Without trailing axes of one, as in Keras and MedMNIST."""
    while values.ndim > 1 and values.shape[-1] == 1:
        values = values[..., 0]
    return values


def _of_one_hot(rows: np.ndarray, where: str) -> np.ndarray:
    """The place of the one in each row [N, C]. Raises InputError where a row is not one 1 among zeros."""
    wrong = ~(((rows == 0) | (rows == 1)).all(1) & ((rows == 1).sum(1) == 1))
    if wrong.any():
        first = int(wrong.argmax())
        raise InputError(
            f"{where}: labels with several columns must be one-hot, {int(wrong.sum()):,} of {len(rows):,} rows are "
            f"not: row {first} is {_shown(rows[first].tolist())}",
            ONE_CLASS,
        )
    places: np.ndarray = rows.argmax(1).astype(np.int64)
    return places


def _whole(values: np.ndarray, where: str, what: str, spelled: bool, hint: str) -> np.ndarray:
    """int64 [N] of values that are whole numbers from 0 on. Raises InputError for all others."""
    if values.ndim != 1:
        raise InputError(f"{where}: {what} have the shape {values.shape}, expected one per sample")
    numbers, right = _numbers(values, spelled)
    if not right.all():
        first = values[~right][:1].tolist()[0]
        empty = spelled and (first is None or first != first)
        raise InputError(
            f"{where} holds {int((~right).sum()):,} {what} that are not whole numbers: "
            + ("the first is empty" if empty else f"the first is '{_shown(first)}'"),
            hint if values.dtype.kind in "USO" or hint == NUMBER_SAMPLES else "",
        )
    negative = numbers < 0
    if negative.any():
        raise InputError(
            f"{where} holds {int(negative.sum()):,} negative {what}: the first is {numbers[negative][0]}"
        )
    return numbers


def _numbers(values: np.ndarray, spelled: bool) -> tuple[np.ndarray, np.ndarray]:
    """int64 [N], and which of the values it is exactly, bool [N]."""
    kind = values.dtype.kind
    if kind in "iu":
        right = values <= np.uint64(_BITS.max) if kind == "u" else np.ones(len(values), dtype=bool)
        return values.astype(np.int64), right
    if kind == "f":
        # From here on a type holds only some of the whole numbers, and another one may have become this one.
        largest = 2.0 ** min(int(np.finfo(values.dtype).nmant) + 1, 63)
        right = (np.abs(values) < largest) & (values == np.rint(values))
        return np.where(right, values, 0).astype(np.int64), right
    if kind not in "OUS":
        return np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=bool)
    cells = [_cell(cell, spelled) for cell in values.tolist()]
    right = np.array([cell is not None for cell in cells], dtype=bool)
    return np.array([cell or 0 for cell in cells], dtype=np.int64), right


def _cell(cell: Any, spelled: bool) -> int | None:
    """The whole number that a cell is, None where it is none; True and False are none."""
    value = _read(cell) if spelled and isinstance(cell, str | bytes) else cell
    if isinstance(value, float | np.floating):
        number = float(value)
        value = int(number) if abs(number) < 2.0**53 and number.is_integer() else None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return None
    return int(value) if _BITS.min <= value <= _BITS.max else None


def _read(cell: str | bytes) -> int | float | None:
    """The number that a text spells, None where it spells none."""
    text = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
    if _WHOLE.fullmatch(text):
        return int(text.partition(".")[0])
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
