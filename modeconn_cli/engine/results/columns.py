"""Columns of foreign tables and arrays as checked numbers: sample ids, whole numbers, measurements."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modeconn_cli.engine import exact
from modeconn_cli.engine.errors import InputError, must_exist
from modeconn_cli.engine.results import arrays
from modeconn_cli.engine.results.parsing import parsing

ID = "sample_id"
LARGEST = 2.0**53  # whole numbers below are exact in float64

_OPTIONS: dict[str, Any] = {"index_col": False, "low_memory": False, "compression": None}
if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
    # The default parser missed the last bit of some numbers; since then the option is deprecated.
    _OPTIONS["float_precision"] = "round_trip"


def read_csv(path: Path) -> pd.DataFrame:
    """A whole table. Raises InputError for what is none."""
    with reading(path):
        table: pd.DataFrame = pd.read_csv(path, **_OPTIONS)
    return table


def read_samples(path: Path, known: tuple[str, ...] = (ID,)) -> pd.DataFrame:
    """A table by sample id, `known` are the names that the column of the ids may have. Raises InputError."""
    table = read_csv(path)
    ids = sample_ids(table.pop(id_column(table.columns, path, known)), path)
    return by_id(ids, table, path)


def by_id(ids: np.ndarray, columns: Mapping[str, np.ndarray] | pd.DataFrame, path: Path) -> pd.DataFrame:
    """Columns [N] of the samples `ids` [N], which become the index, in their order. Raises InputError where N is 0."""
    if len(ids) == 0:
        raise InputError(f"'{path}' names no samples")
    return pd.DataFrame(columns).set_index(pd.Index(ids, name=ID)).sort_index()


def read_pieces(path: Path, rows: int, **options: Any) -> Iterator[pd.DataFrame]:
    """A table, so many rows at a time. Raises InputError for what is none."""
    with reading(path):
        pieces = pd.read_csv(path, chunksize=rows, **_OPTIONS, **options)
    with pieces:
        while True:
            with reading(path):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what pandas and the operating system say about a broken table into an InputError with the path."""
    must_exist(path)
    with parsing(path, "table"):
        # Rows that are longer than the header would lose their last cells with no more than a warning.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        yield


def read_array(path: Path) -> np.ndarray:
    """Measurements [N] of any numeric type, NaN where missing: float32 stays, whole numbers become float64."""
    values = arrays.read(path, kinds="fiu")
    kind = np.float32 if values.dtype.kind == "f" and values.dtype.itemsize <= 4 else np.float64
    return np.array(values, dtype=kind)


def sample_ids(values: Any, path: Path, *, repeats: bool = False, what: str = "sample ids") -> np.ndarray:
    """Sample ids of a table as int64 [N], by `exact.ids`: 7, 7.0 and "7" are the same."""
    column = pd.Series(values, dtype=object if isinstance(values, list) else None)
    cells = column.to_numpy() if column.dtype.kind in "iuf" else column.to_numpy(object, na_value=np.nan)
    return exact.ids(cells, f"'{path}'", repeats=repeats, what=what, spelled=True)


def _floats(column: Any, path: Path) -> np.ndarray:
    """float64 [N], NaN for what is no number; True and False are none."""
    if column.dtype.kind == "b":
        return np.full(len(column), np.nan)
    if column.dtype.kind == "f":
        return np.asarray(column, dtype=np.float64)
    plain = column.where(~column.map(lambda cell: isinstance(cell, bool)).astype(bool), None)
    with parsing(path, "table"):  # whole numbers that no float can be, for one
        return np.asarray(pd.to_numeric(plain, errors="coerce"), dtype=np.float64)


def measurements(column: Any, path: Path) -> np.ndarray:
    """A column as float64 [N], NaN where it is empty. Raises InputError for text."""
    if column.dtype.kind in "iuf":
        return np.asarray(column, dtype=np.float64)
    numbers = _floats(column, path)
    wrong = np.isnan(numbers) & column.notna().to_numpy()
    if wrong.any():
        raise InputError(
            f"'{path}' holds {int(wrong.sum()):,} cells in column '{column.name}' that are not numbers: "
            f"the first is '{column[wrong].iloc[0]}'"
        )
    return numbers


def whole(column: Any, path: Path) -> np.ndarray:
    """A column of whole numbers as float64 [N], NaN where it is empty. Raises InputError for fractions."""
    numbers = measurements(column, path)
    wrong = ~np.isnan(numbers) & ~((np.abs(numbers) < LARGEST) & (numbers == np.rint(numbers)))
    if wrong.any():
        raise InputError(
            f"'{path}' holds {int(wrong.sum()):,} cells in column '{column.name}' that are not whole numbers: "
            f"the first is {numbers[wrong][0]:g}"
        )
    return numbers


def id_column(names: Iterable[str], path: Path, known: tuple[str, ...] = (ID,)) -> str:
    """The column that holds the sample ids. Raises InputError where there is none."""
    there = list(names)
    found = next((name for name in known if name in there), None)
    if found is None:
        shown = ", ".join(map(str, there[:12])) or "nothing"
        raise InputError(f"'{path}' has no column {' or '.join(known)}", f"it has: {shown}")
    return found
