"""The tracking file of a training run, a row per sample and step, read as a row per sample.

A whole run has some 95 million rows: the file is read in pieces, memory is bounded by the number of samples.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import arrays, columns, files, manifest, records
from modeconn_cli.engine.results.columns import ID
from modeconn_cli.engine.results.memo_scores import MEMO
from modeconn_cli.engine.results.parsing import parsing

PIECE = 1_000_000  # rows read at a time
LABEL, LIST_END = "true_label", "end of true_label"
WANTED = (ID, MEMO, "class_id", "epoch_num", "task_num")

# The columns that are made, and how the rows of one sample become its value.
_REDUCED = {
    "class_id": "min", "task_num": "min", "first_epoch": "min", "last_epoch": "max", "times_seen": "sum", MEMO: "min",
}  # fmt: skip
_ONE_VALUE = ("class_id", MEMO)  # columns that must be the same in all rows of a sample


def read(path: Path, piece: int = PIECE) -> pd.DataFrame:
    """class_id, task_num (the first), first_epoch, last_epoch, times_seen and memo_score of every sample.

    The rows are indexed by sample id, ascending; a column that the file says nothing of is left out. Raises InputError
    for ids that are none, for a sample with two classes or two scores, for a last line that a kill has cut off, and
    for a training that has not finished.
    """
    if path.exists():
        manifest.check([path], ("train",))
    samples: pd.DataFrame | None = None
    for rows in _npz_pieces(path, piece) if path.suffix.lower() == ".npz" else _csv_pieces(path, piece):
        if not rows.empty:
            found = _checked(rows, path)
            samples = _reduced(found if samples is None else pd.concat([samples, found]), path)
    if samples is None:
        raise InputError(f"'{path}' names no samples")
    return samples.dropna(axis=1, how="all")  # memo_score of a run that was given none


def every(path: Path) -> int:
    """Epochs from one that was tracked to the next, as the training beside the file says; 1 where there is none."""
    record = records.peek_object(path.parent / names.JOB_FOLDER / "train" / names.RECORD_FILE)
    found = (record.get("settings") or {}).get("track_every", 1)
    return found if type(found) is int and found > 0 else 1


def _npz_pieces(path: Path, piece: int) -> Iterator[pd.DataFrame]:
    """The columns of the .npz form, some rows of all of them at a time."""
    with ExitStack() as stack:
        archive = stack.enter_context(arrays.npz(path))
        wanted = [name for name in WANTED if name in archive]
        columns.id_column(wanted, path)
        with parsing(path, "tracking in .npz"):
            members = {name: stack.enter_context(archive.member(name)) for name in wanted}
        shapes = {header.shape for header, _ in members.values()}
        if len(shapes) != 1 or any(header.dtype.kind not in "if" for header, _ in members.values()):
            raise InputError(f"'{path}' is not a tracking in .npz: its columns are not numbers of one length")
        (shape,) = shapes
        if len(shape) != 1:
            raise InputError(f"'{path}' is not a tracking in .npz: its columns have the shape {shape}")
        for begin in range(0, shape[0], piece):
            size, read = min(piece, shape[0] - begin), {}
            with parsing(path, "tracking in .npz"):
                for name, (header, stream) in members.items():
                    data = stream.read(size * header.dtype.itemsize)
                    read[name] = np.frombuffer(data, header.dtype, size)
            yield pd.DataFrame(read)


def _csv_pieces(path: Path, piece: int) -> Iterator[pd.DataFrame]:
    options = _layout(path)
    with files.reading(path), path.open("rb") as stream:
        stream.seek(-min(1, stream.seek(0, os.SEEK_END)), os.SEEK_END)
        if stream.read(1) not in (b"\n", b"\r"):
            raise InputError(
                f"'{path}' ends within a line",
                "was its training killed? Continue it, or end the line if it is whole",
            )
    yield from columns.read_pieces(path, piece, **options)


def _layout(path: Path) -> dict[str, Any]:
    """How pandas has to read the file: one-hot labels may be lists whose commas nothing protects."""
    with columns.reading(path), path.open(encoding="utf-8-sig", newline="") as stream:
        try:
            rows = csv.reader(stream)
            header, first = next(rows, []), next(rows, [])
        except csv.Error as error:
            raise InputError(f"'{path}' is not a readable table: {error}") from error
    columns.id_column(header, path)
    wanted = [name for name in WANTED if name in header]
    at = header.index(LABEL) if LABEL in header else len(header)
    extra = len(first) - len(header)
    if extra <= 0:
        labels = [LABEL] if LABEL in header else []
        return {"usecols": [*wanted, *labels], "dtype": dict.fromkeys(labels, "category")}
    if at == len(header) or not first[at].startswith("[") or not first[at + extra].endswith("]"):
        raise InputError(f"'{path}' has {len(first)} cells in its first row and {len(header)} in its header")
    # The list takes `extra` columns more; its end is read too, as a list of another length shifts what follows.
    places = {header.index(name) + (extra if header.index(name) > at else 0): name for name in wanted}
    places[at + extra] = LIST_END
    return {
        "header": None,
        "skiprows": 1,
        "names": [places.get(i, f"column {i}") for i in range(len(first))],
        "usecols": list(places.values()),
        "dtype": {LIST_END: "category"},
    }


def _checked(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The rows of a piece by sample id, each of them one exposure. Raises InputError for cells that say nothing."""
    _check_lists(rows, path)
    ids = columns.sample_ids(rows[ID], path, repeats=True)
    out = {"times_seen": np.ones(len(rows))}
    for name in ("epoch_num", "class_id", "task_num"):
        if name not in rows:
            continue
        numbers = columns.whole(rows[name], path)
        if np.isnan(numbers).any():
            raise InputError(f"'{path}' has {int(np.isnan(numbers).sum()):,} rows without {name}")
        made = ("first_epoch", "last_epoch") if name == "epoch_num" else (name,)
        out |= dict.fromkeys(made, numbers)
    if MEMO in rows:
        out[MEMO] = columns.measurements(rows[MEMO], path)
    return pd.DataFrame(out, index=pd.Index(ids, name=ID))


def _check_lists(rows: pd.DataFrame, path: Path) -> None:
    """Raises InputError where a list of labels has another length than the first: what follows it is shifted."""
    if LIST_END in rows:
        ends = rows[LIST_END]
        whole = not ends.isna().any() and all(str(end).endswith("]") for end in ends.cat.categories)
    elif LABEL in rows:
        labels = [str(label) for label in rows[LABEL].cat.categories]
        whole = all(label.endswith("]") for label in labels if label.startswith("["))
    else:
        return
    if not whole:
        raise InputError(f"'{path}' holds lists of labels of different lengths", "quote them")


def _reduced(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """One row per sample, in the order of the ids. Raises InputError for a sample of two classes or scores."""
    of_sample = rows.groupby(level=0)
    out = of_sample.agg({name: how for name, how in _REDUCED.items() if name in rows})
    for name in [name for name in _ONE_VALUE if name in out]:
        low, high = out[name], of_sample[name].max()
        differ = (low != high) & low.notna()
        if differ.any():
            k = int(differ.argmax())
            raise InputError(
                f"'{path}' gives sample {out.index[k]} two values of {name}, {low.iloc[k]:g} and {high.iloc[k]:g} "
                f"({int(differ.sum()):,} samples)"
            )
    return out
