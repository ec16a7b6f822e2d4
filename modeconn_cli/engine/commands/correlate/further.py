"""Sources that anyone may have made: further metrics, and flags that the metrics are held against."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.correlate import sources
from modeconn_cli.engine.commands.correlate.sources import Source
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import arrays, columns, manifest
from modeconn_cli.engine.results.listing import FILE, Listing

_GROUPS = {"label", "labels", "class_id", "task_num"}  # columns that measure nothing
_FLIPPED = "flipped"  # of the project's own label_noise_*.csv, whose other columns are labels
_TRUTH = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}


def metrics(path: Path, taken: Collection[str], assume: bool, runtime: Runtime) -> Source:
    """Every column of numbers of a .csv, or an array, as metrics; names that are taken get the file's before them."""
    name = f"with {path.name}"
    if sources.existing(path).suffix.lower() == ".npy":
        (column,) = _names([path.stem], path, taken).values()
        return _with_never(sources.array(name, path, column, sources.JOBS, assume), column)
    read = columns.read_samples(path)
    # A column without a heading is the index that pandas writes.
    rest = [column for column in read.columns if not column.startswith("Unnamed: ")]
    if groups := [column for column in rest if column in _GROUPS]:
        runtime.note(f"left out of '{path}', as they number classes and tasks: {', '.join(groups)}")
        rest = [column for column in rest if column not in _GROUPS]
    numeric = [column for column in rest if read[column].dtype.kind in "iufb"]
    if not numeric:
        raise InputError(f"'{path}' has no column of numbers beside {columns.ID}")
    if left := [column for column in rest if column not in numeric]:
        runtime.note(f"left out of '{path}', as they are not numbers: {', '.join(left[:12])}")
    table = read[numeric].rename(columns=_names(numeric, path, taken)).astype(np.float64)
    return Source(name=name, path=path, table=table, metrics=tuple(table.columns), files=(path,))


def _with_never(source: Source, column: str) -> Source:
    """The array with infinity for NaN beside a learning time: an epoch that is never reached comes after all others."""
    kind = next((kind for kind in names.NEVER if source.path.name.startswith(kind)), None)
    if kind is None:
        return source
    beside = source.path.with_name(re.sub(f"^{kind}(_sq)?", "lt", source.path.name))
    if not beside.exists():
        return source
    known = np.isfinite(columns.read_array(beside))
    values = source.table[column].to_numpy()
    if len(known) != len(values):
        return source
    return replace(
        source, table=source.table.assign(**{column: np.where(np.isnan(values) & known, np.inf, values)})
    )


def _names(found: Iterable[str], path: Path, taken: Collection[str]) -> dict[str, str]:
    """Column of a file -> its own name, or the file's before it. Raises InputError where both are taken."""
    names: dict[str, str] = {}
    for column in found:
        free = [name for name in (column, f"{path.stem}_{column}") if name not in {*taken, *names.values()}]
        if not free:
            raise InputError(
                f"'{path}' gives '{column}', which another source gives too", "rename the file or the column"
            )
        names[column] = free[0]
    return names


def flags(path: Path, taken: Collection[str], assume: bool, known: Listing) -> Source:
    """Columns of 0 and 1 that the metrics are held against, by sample id or by the files that are `known`."""
    ids_file: tuple[Path, ...] = ()
    assumed = False
    manifest.check([path], (*sources.JOBS, "train"))
    if sources.existing(path).suffix.lower() == ".npy":
        marks = _truth(pd.Series(np.asarray(arrays.read(path, kinds="biuf"))))
        if marks is None:
            raise InputError(f"'{path}' holds other values than 0 and 1")
        ids, ids_file = sources.ids_of(path, len(marks), assume)
        table, assumed = columns.by_id(ids, {path.stem: marks}, path), not ids_file
    else:
        table = _flag_columns(_read_flags(path, known), path)
    table = table.rename(columns=_names(table.columns, path, taken))
    return Source(
        name="flags",
        path=path,
        table=table,
        flags=tuple(table.columns),
        assumed=assumed,
        files=(path, *ids_file),
    )


def _read_flags(path: Path, known: Listing) -> pd.DataFrame:
    """A table by sample id, or by file where it has no ids: by the file's place, or by its name where that is unique.

    Raises InputError for a file that no table of samples names, or that several samples could be.
    """
    table = columns.read_csv(path)
    if columns.ID in table or FILE not in table:
        return columns.read_samples(path)
    if known.files is None:
        raise InputError(
            f"'{path}' names files, and no table of samples beside the metrics says which samples they are",
            "score the folder of images again, or name samples by sample_id",
        )
    named = table.pop(FILE).map(lambda name: Path(str(name)).as_posix())
    places = pd.Series(known.files.index, known.files.to_numpy())
    short = pd.Series(known.files.index, known.files.map(lambda name: name.rpartition("/")[2]).to_numpy())
    short = short[~short.index.duplicated(keep=False)]
    found = named.map(places).fillna(named.map(short))
    if found.isna().any():
        first = named[found.isna()].iloc[0]
        raise InputError(
            f"'{path}': {int(found.isna().sum())} files are not among the samples or could be several, such as "
            f"'{first}'",
            f"write them as the tables of samples do, such as '{known.files.iloc[0]}'",
        )
    return columns.by_id(columns.sample_ids(found.astype("int64"), path), table, path)


def _flag_columns(read: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The columns of 0 and 1, of the flips of a run only what was flipped. Raises InputError where there are none."""
    rest = [column for column in read.columns if column not in _GROUPS]
    binary = {column: marks for column in rest if (marks := _truth(read[column])) is not None}
    if not binary:
        raise InputError(
            f"'{path}' has no column of 0 and 1 beside {columns.ID}", f"it has: {', '.join(rest[:12])}"
        )
    return pd.DataFrame({_FLIPPED: binary[_FLIPPED]} if _FLIPPED in binary else binary, read.index)


def _truth(column: pd.Series) -> np.ndarray | None:
    """0 and 1 as float64 [N], NaN where empty; None where anything else is among them, or nothing at all."""
    kinds = [kind for kind in column.unique() if not pd.isna(kind)]
    if not kinds or any(str(kind).strip().lower() not in _TRUTH for kind in kinds):
        return None
    return np.asarray(
        column.map({kind: _TRUTH[str(kind).strip().lower()] for kind in kinds}), dtype=np.float64
    )
