"""The tables as CSV and Parquet: numbers that read back as they were, text that no spreadsheet takes for a formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.correlate.join import CATEGORY, METRICS, SPLIT, Joined
from modeconn_cli.engine.results import files, parquet
from modeconn_cli.engine.results.listing import FILE

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_DECIMALS, _DIGITS = 6, 1e9  # so many decimals of numbers so large are told apart by 15 digits


def safe(text: str) -> str:
    """Text from outside for a cell: no NUL, and an apostrophe before what a spreadsheet would run."""
    text = text.replace("\0", "")
    return f"'{text}" if text.startswith(_FORMULA) else text


def write_small(path: Path, table: pd.DataFrame) -> None:
    """Write a table of a few thousand rows; missing values are empty cells."""
    out = table.copy(deep=False)
    for name in out.select_dtypes(["object", "string"]):
        out[name] = out[name].map(safe, na_action="ignore")
    files.write_text(path, out.rename(columns=safe).to_csv(index=False, lineterminator="\n"))


def per_sample(joined: Joined, category: pd.Series, of_files: pd.Series | None) -> pd.DataFrame:
    """The documented columns, then those of --with and --flags, and the files that are known; no category where no
    metric makes any.
    """
    table = joined.table.copy(deep=False)
    if len(category.cat.categories):
        further = [name for name in joined.metrics if name not in METRICS] + joined.flags
        table.insert(len(table.columns) - len(further), CATEGORY, category)
    split = pd.Categorical([joined.split or None] * len(table))
    table.insert(0, SPLIT, pd.Series(split, table.index))
    if of_files is not None:
        table[FILE] = pd.Categorical(of_files.reindex(table.index))
    return table.reset_index()


def write_csv(path: Path, table: pd.DataFrame, joined: Joined) -> None:
    """Write the table of samples, a row each."""
    formats = {name: _format(table[name], name in joined.metrics) for name in table}
    cells = table.drop(columns=SPLIT)
    for name in (CATEGORY, FILE):
        if name in cells:
            cells[name] = cells[name].cat.rename_categories(_quoted).astype(object)

    files.write_rows(
        path,
        [safe(name) for name in table.columns],
        list({**formats, SPLIT: joined.split}.values()),
        len(cells),
        lambda rows: cells.iloc[rows].to_numpy(object),
    )


def write_parquet(path: Path, table: pd.DataFrame, joined: Joined) -> None:
    """Write the same columns as Parquet; whole numbers are nullable integers, split and category are dictionaries."""
    whole = [name for name in joined.table if name not in joined.metrics]
    parquet.write(path, lambda: [table.astype(dict.fromkeys(whole, "Int64"))])


def _format(column: pd.Series, measured: bool) -> str:
    """What writes a column's numbers exactly: 9 digits for float32, 17 for float64, fewer for short decimals."""
    if column.dtype == "category":
        return "%s"
    if not measured:
        return "%d" if column.dtype == np.int64 else "%.0f"
    if column.dtype == np.float32:
        return "%.9g"
    finite = column[np.isfinite(column)]
    short = (finite.abs() < _DIGITS).all() and np.array_equal(finite.round(_DECIMALS), finite)
    return "%.15g" if short else "%.17g"


def _quoted(text: str) -> str:
    """A cell as the csv module writes it."""
    return files.csv_text([safe(text)], []).removesuffix("\n")
