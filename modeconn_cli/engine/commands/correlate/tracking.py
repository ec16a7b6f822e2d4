"""The tracking of a training run, a row per sample and step, collapsed to a row per sample.

A whole run has some 95 million rows: the file is read in pieces, memory is bounded by the number of samples.
"""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.correlate.sources import Source
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import columns, files, manifest, records

CHUNK = 1_000_000  # rows read at a time
LABEL, LIST_END = "true_label", "end of true_label"
WANTED = ("sample_id", "memo_score", "class_id", "epoch_num", "task_num")
FACTS = ("class_id", "task_num", "first_epoch", "last_epoch", "times_seen")

Columns = dict[str, np.ndarray]

# How the rows of one sample become one value; class and score must be the same in all of them.
_REDUCE: dict[str, Callable[..., np.ndarray]] = {
    "first_epoch": np.fmin.reduceat,
    "last_epoch": np.fmax.reduceat,
    "times_seen": np.add.reduceat,
    "task_num": np.fmin.reduceat,
    "class_id": np.fmin.reduceat,
    "memo_score": np.fmin.reduceat,
}


def read(path: Path, chunk: int = CHUNK) -> Source:
    """class_id, task_num (the first), first_epoch, last_epoch, times_seen and memo_score of every sample.

    Raises InputError for ids that are none, for a sample with two classes or two scores, for a last line that a kill
    has cut off, and for a training that has not finished.
    """
    if path.exists():
        manifest.check(path, ("train",))
    state: Columns = {}
    for frame in _pieces(path, chunk):
        if frame.empty:
            continue
        part = _collapse(_columns(frame, path), path)
        state = _collapse({k: np.concatenate([state[k], part[k]]) for k in part}, path) if state else part
    if not state:
        raise InputError(f"'{path}' names no samples")
    memo = state.get("memo_score")
    scored = memo is not None and not np.isnan(memo).all()
    return Source(
        name="tracking",
        path=path,
        ids=state["sample_id"],
        metrics={"memo_score": state["memo_score"]} if scored else {},
        facts={name: state[name] for name in FACTS if name in state},
        split="train",
        files=(path,),
    )


def every(path: Path) -> int:
    """Epochs from one that was tracked to the next, as the training beside the file says; 1 where there is none."""
    record = records.peek_object(path.parent / names.JOB_FOLDER / "train" / names.RECORD_FILE)
    found = (record.get("settings") or {}).get("track_every", 1)
    return found if isinstance(found, int) else 1


def _columns_of_npz(path: Path, chunk: int) -> Iterator[Any]:
    """The columns of the .npz form, some rows of all of them at a time."""
    import pandas as pd

    with files.reading(path), columns.unreadable(path), ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            names = [name for name in WANTED if f"{name}.npy" in archive.namelist()]
            columns.id_column(names, path)
            streams, facts = {}, {}
            for name in names:
                streams[name] = stack.enter_context(archive.open(f"{name}.npy"))
                version = np.lib.format.read_magic(streams[name])
                if version != (1, 0):
                    raise ValueError(f"'{name}' has the version {version}")
                facts[name] = np.lib.format.read_array_header_1_0(streams[name])
            counts = {shape for shape, _, _ in facts.values()}
            if len(counts) != 1 or any(kind.kind not in "if" for _, _, kind in facts.values()):
                raise ValueError("its columns are not numbers of one length")
            (count,) = next(iter(counts))
            for begin in range(0, count, chunk):
                size = min(chunk, count - begin)
                yield pd.DataFrame(
                    {name: np.frombuffer(streams[name].read(size * facts[name][2].itemsize), facts[name][2])
                     for name in names}
                )  # fmt: skip
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"'{path}' is not a tracking in .npz: {error}") from error


def _pieces(path: Path, chunk: int) -> Iterator[Any]:
    if path.suffix.lower() == ".npz":
        yield from _columns_of_npz(path, chunk)
        return
    options = _layout(path)
    with files.reading(path), path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) not in (b"\n", b"\r"):
            raise InputError(
                f"'{path}' ends within a line",
                "was its training killed? Continue it, or end the line if it is whole",
            )
    pieces = columns.read_csv(path, chunksize=chunk, **options)
    with pieces:
        while True:
            with files.reading(path), columns.unreadable(path):
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


def _layout(path: Path) -> dict[str, Any]:
    """How pandas has to read the file: one-hot labels may be lists whose commas nothing protects."""
    with files.reading(path), columns.unreadable(path), path.open(encoding="utf-8-sig", newline="") as stream:
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
    names = [places.get(i, f"column {i}") for i in range(len(first))]
    return {
        "header": None,
        "skiprows": 1,
        "names": names,
        "usecols": list(places.values()),
        "dtype": {LIST_END: "category"},
    }


def _columns(frame: Any, path: Path) -> Columns:
    """The rows of a piece as arrays."""
    _check_lists(frame, path)
    out = {"sample_id": columns.sample_ids(frame["sample_id"], path, repeats=True)}
    out["times_seen"] = np.ones(len(frame))
    if "epoch_num" in frame.columns:
        out["first_epoch"] = out["last_epoch"] = columns.whole(frame["epoch_num"], path)
    for name in ("class_id", "task_num"):
        if name in frame.columns:
            out[name] = columns.whole(frame[name], path)
    for name, column in out.items():
        if np.isnan(column).any():
            shown = "epoch_num" if name == "first_epoch" else name
            raise InputError(f"'{path}' has {int(np.isnan(column).sum()):,} rows without {shown}")
    if "memo_score" in frame.columns:
        out["memo_score"] = columns.measurements(frame["memo_score"], path)
    return out


def _check_lists(frame: Any, path: Path) -> None:
    """Raises InputError where a list of labels has another length than the first: what follows it is shifted."""
    if LIST_END in frame.columns:
        ends = frame[LIST_END]
        whole = not ends.isna().any() and all(str(end).endswith("]") for end in ends.cat.categories)
    elif LABEL in frame.columns:
        labels = [str(label) for label in frame[LABEL].cat.categories]
        whole = all(label.endswith("]") for label in labels if label.startswith("["))
    else:
        return
    if not whole:
        raise InputError(f"'{path}' holds lists of labels of different lengths", "quote them")


def _collapse(rows: Mapping[str, np.ndarray], path: Path) -> Columns:
    """One row per sample, in the order of the ids."""
    order = np.argsort(rows["sample_id"], kind="stable")
    ids = rows["sample_id"][order]
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    out = {"sample_id": ids[starts]}
    for name, reduce in _REDUCE.items():
        if name not in rows:
            continue
        ordered = rows[name][order]
        out[name] = reduce(ordered, starts)
        if name in ("class_id", "memo_score"):
            _refuse_conflicts(name, out["sample_id"], out[name], np.fmax.reduceat(ordered, starts), path)
    return out


def _refuse_conflicts(name: str, ids: np.ndarray, low: np.ndarray, high: np.ndarray, path: Path) -> None:
    differ = (low != high) & ~np.isnan(low)
    if differ.any():
        k = int(np.argmax(differ))
        raise InputError(
            f"'{path}' gives sample {ids[k]} two values of {name}, {low[k]:g} and {high[k]:g} "
            f"({int(differ.sum()):,} samples)"
        )
