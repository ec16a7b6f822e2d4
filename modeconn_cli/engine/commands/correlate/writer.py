"""The tables as CSV: numbers that read back as they were, text that no spreadsheet takes for a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from modeconn_cli.engine.commands.correlate.evolution import Epoch
from modeconn_cli.engine.commands.correlate.groups import Groups
from modeconn_cli.engine.commands.correlate.table import (
    CATEGORY,
    GROUPS,
    ID,
    METRICS,
    SEEN,
    SPLIT,
    TASK,
    Table,
)
from modeconn_cli.engine.commands.correlate.tasks import Task
from modeconn_cli.engine.results import files
from modeconn_cli.engine.statistics import NAMES

ROWS = 4096  # written at a time
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_DECIMALS, _DIGITS = 6, 1e9  # so many decimals of numbers so large are told apart by 15 digits


def safe(text: str) -> str:
    """Text from outside for a cell: no NUL, and an apostrophe before what a spreadsheet would run."""
    text = text.replace("\0", "")
    return f"'{text}" if text.startswith(_FORMULA) else text


def rows(path: Path, header: Sequence[str], cells: Iterable[Sequence[Any]]) -> None:
    """A small table; None and NaN are empty cells."""
    known = ([None if cell != cell else cell for cell in row] for row in cells)
    files.write_text(path, files.csv_text([safe(name) for name in header], known))


def groups(
    path: Path, found: Groups, class_names: Mapping[int, str] | None, seen: Sequence[Task] = ()
) -> None:
    """A row per group: its key, the class's name where names are given, n, and mean, sd, n of each metric; of tasks
    also when they were seen.
    """
    keys = {key: values.astype(np.int64).tolist() for key, values in found.keys.items()}
    header, columns = list(keys), list(keys.values())
    if class_names is not None and "class_id" in keys:
        header.append("class_name")
        columns.append([safe(class_names.get(number, "")) for number in keys["class_id"]])
    header.append("n")
    columns.append(found.sizes.tolist())
    for name, (mean, sd, n) in found.statistics.items():
        header += [f"{name}_mean", f"{name}_sd", f"{name}_n"]
        columns += [mean.tolist(), sd.tolist(), n.tolist()]
    if seen:
        header += [*SEEN[:2], f"{SEEN[2]}_mean"]
        columns += [[t.first_epoch for t in seen], [t.last_epoch for t in seen], [t.times_seen for t in seen]]
    rows(path, header, zip(*columns, strict=True))


def evolution(path: Path, epochs: Sequence[Epoch]) -> None:
    """A row per epoch and metric for all samples, whose task is empty, and for those of each task."""
    header = ["epoch", "metric", TASK, "samples", *NAMES, "flagged_mean", "unflagged_mean"]
    rows(
        path,
        header,
        (
            (e.epoch, e.metric, e.task, e.samples, *e.statistics.values(), e.flagged_mean, e.unflagged_mean)
            for e in epochs
        ),
    )


def per_sample(path: Path, table: Table, code: np.ndarray, names: Sequence[str]) -> None:
    """A row per sample in the documented order of columns. `code`: number of the category [N], -1 for none."""
    order = column_order(table, bool(names))
    texts = np.array([*map(_quoted, names), ""], dtype=object)  # the last one is that of -1
    formats = {name: _format(name, table) for name in order}
    varying = [name for name in order if name != SPLIT]
    line = ",".join(formats[name] for name in order) + "\n"

    def write(stream: IO[bytes]) -> None:
        stream.write((",".join(_quoted(safe(name)) for name in order) + "\n").encode())
        for begin in range(0, len(table.ids), ROWS):
            part = slice(begin, begin + ROWS)
            count = len(table.ids[part])
            cells: list[Any] = [None] * (count * len(varying))
            for k, name in enumerate(varying):
                cells[k :: len(varying)] = _cells(name, table, texts, code, part)
            # One format for thousands of rows: five times as fast as pandas, which makes a string of each number.
            text = (line * count) % tuple(cells)
            stream.write(text.replace(",nan", ",").encode())

    files.atomic_write(path, write)


def column_order(table: Table, categories: bool) -> list[str]:
    """The columns of per_sample.csv; the documented ones first, without those that no source gives."""
    documented = [ID, SPLIT, *GROUPS]
    present = [name for name in table.metrics if name in METRICS]
    further = [name for name in table.metrics if name not in METRICS]
    order = [*documented, *present, *SEEN, *([CATEGORY] if categories else []), *further, *table.flags]
    own = (ID, SPLIT, CATEGORY)
    return [name for name in order if name in own or name in table.columns]


def _cells(name: str, table: Table, texts: np.ndarray, code: np.ndarray, part: slice) -> list[Any]:
    if name == ID:
        column: np.ndarray = table.ids[part]
    elif name == CATEGORY:
        column = texts[code[part]]
    else:
        column = table.columns[name][part]
    cells: list[Any] = column.tolist()
    return cells


def _format(name: str, table: Table) -> str:
    """What writes a column's numbers exactly: 9 digits for float32, 17 for float64, fewer for short decimals."""
    if name == SPLIT:
        return table.split
    if name in (ID, CATEGORY):
        return {ID: "%d", CATEGORY: "%s"}[name]
    values = table.columns[name]
    if name not in table.metrics:
        return "%.0f"
    if values.dtype == np.float32:
        return "%.9g"
    finite = values[np.isfinite(values)]
    short = (np.abs(finite) < _DIGITS).all() and np.array_equal(np.round(finite, _DECIMALS), finite)
    return "%.15g" if short else "%.17g"


def _quoted(text: str) -> str:
    """A cell as the csv module writes it."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([text])
    return out.getvalue()


def parquet(path: Path, table: Table, code: np.ndarray, names: Sequence[str]) -> None:
    """The same columns as Parquet; whole numbers are nullable integers, the category is a dictionary."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for name in column_order(table, bool(names)):
        if name == ID:
            columns[name] = table.ids
        elif name == SPLIT:
            columns[name] = pd.Categorical([table.split or None] * len(table.ids))
        elif name == CATEGORY:
            columns[name] = pd.Categorical.from_codes(code.tolist(), categories=pd.Index(names))
        elif name in table.metrics:
            columns[name] = table.columns[name]
        else:
            columns[name] = pd.array(table.columns[name], dtype="Float64").astype("Int64")
    buffer = io.BytesIO()
    pd.DataFrame(columns).to_parquet(buffer, engine="pyarrow", index=False)
    files.atomic_write(path, buffer.getvalue())
