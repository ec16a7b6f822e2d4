"""The `aum` package (Pleiss et al. 2020): `full_aum_records.csv` and `aum_values.csv`.

A record is a sample at its `num_measurements`-th update. In the package's releases 1.0.0 to 1.0.2 `target_val` and
`other_val` are the logits, and `target_logit` and `other_logit` the classes that they are of; `margin`, the difference
of the logits, tells which is which, so that a file with these names the other way round is read too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.results import columns
from modeconn_cli.engine.results.parsing import opened
from modeconn_cli.engine.samples.foreign.look import Look
from modeconn_cli.engine.samples.foreign.source import Columns, Source, Told, described, in_order, room

ROWS = 1 << 18  # records that are treated at a time
CLOSE = 1e-5  # of margins, by the larger of the two logits: they are differences in float32
MEASURED, SAMPLE = "num_measurements", "sample_id"
_PAIRS = (
    ("target_val", "other_val"),
    ("target_logit", "other_logit"),
)  # logits, classes; or the other way round
_NEEDED = (SAMPLE, MEASURED, *_PAIRS[0], *_PAIRS[1], "margin")
PLANES = ("label_logit", "other_logit", "correct")
_LACKS = "aum's records hold the label's logit and the largest other one alone"


def is_records(look: Look) -> bool:
    return look.form == "csv" and look.has(*_NEEDED)


def is_values(look: Look) -> bool:
    return look.form == "csv" and look.has(SAMPLE, "aum") and not look.has(MEASURED)


def values(looks: list[Look], told: Told) -> Source:
    """AUM alone."""
    path = _only(looks)
    table = columns.read_csv(path)
    ids = told.ids(table[SAMPLE].tolist(), f"'{path}'")
    order = in_order(ids, f"'{path}'")
    found = columns.measurements(table["aum"], path)[order]
    described(told, {"aum": found}, f"'{path}'")
    return Source(epochs=[], ids=ids[order], known={"aum": found}, lacks="aum's values hold AUM alone")


def _only(looks: list[Look]) -> Path:
    """The one file. Raises InputError where its last line has no end: missing cells would be NaN, and digits lost."""
    if len(looks) > 1:
        raise SettingsError(f"--from takes one file of aum at a time, got {len(looks)}")
    path = looks[0].path
    with opened(path) as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read() not in b"\r\n":
            raise InputError(
                f"'{path}' ends within a line: it was cut off", "end its last line if it is whole"
            )
    return path


def records(looks: list[Look], told: Told) -> Source:
    """Logits and correctness of every measurement, which are in the order of the samples and are turned round on disk:
    a pass over the file counts, a second one fills what is read epoch by epoch.
    """
    path = _only(looks)
    ids, labels, most = _counted(path, told)
    epochs, missing = told.epochs(range(1, most + 1), "measurements")
    told.runtime.note("epochs are the measurements of the records, whose first one is 1")
    spooled = _spooled(path, told, ids, epochs)

    def begin() -> Iterator[Columns]:
        for k, (epoch, planes) in enumerate(zip(epochs, spooled, strict=True)):
            told.runtime.progress(k + 1, len(epochs), "epoch", epoch=epoch)
            found = {name: np.array(plane) for name, plane in zip(PLANES, planes, strict=True)}
            found["correct"] -= 1.0
            described(told, found, f"measurement {epoch}")
            yield found

    return Source(
        epochs=epochs,
        missing=missing,
        ids=ids,
        labels=None if (labels < 0).any() else labels,
        holds=PLANES,
        lacks=_LACKS,
        begin=begin,
    )


def _pieces(path: Path, told: Told) -> Iterator[tuple[int, pd.DataFrame]]:
    """Records, some thousands at a time, each with the line of the first."""
    kinds = {} if told.names is None else {SAMPLE: str}  # names as they are spelled
    line = 2
    for piece in columns.read_pieces(path, ROWS, usecols=list(_NEEDED), dtype=kinds):
        if len(piece):
            yield line, piece
        line += len(piece)


def _counted(path: Path, told: Told) -> tuple[np.ndarray, np.ndarray, int]:
    """The sample ids, ascending, their labels, and how many measurements there are at most."""
    seen, most, lines = np.empty(0, dtype=np.int64), 0, 0
    labels = np.empty(0, dtype=np.int64)
    swapped: bool | None = None
    for line, piece in _pieces(path, told):
        swapped = _swapped(piece, path) if swapped is None else swapped
        ids = told.ids(piece[SAMPLE].to_numpy(), _lines(path, line, piece))
        numbers = columns.whole(piece[MEASURED], path)
        if not (numbers >= 1).all():
            where = line + int((~(numbers >= 1)).argmax())
            raise InputError(
                f"'{path}', line {where}, has no {MEASURED} from 1 on", "it may have been cut off"
            )
        most, lines = max(most, int(numbers.max())), lines + len(piece)
        classes = columns.whole(piece[_PAIRS[0 if swapped else 1][0]], path)
        some, first = np.unique(ids, return_index=True)
        at = np.searchsorted(seen, some)
        new = np.append(seen, -1)[at] != some
        if new.any():
            given = np.nan_to_num(classes[first[new]], nan=-1.0).astype(np.int64)
            seen, labels = np.insert(seen, at[new], some[new]), np.insert(labels, at[new], given)
        other = labels[np.searchsorted(seen, ids)] != np.nan_to_num(classes, nan=-1.0)
        if other.any():
            row = int(other.argmax())
            raise InputError(
                f"'{path}', line {line + row}, gives sample {ids[row]} another class than before"
            )
    if not len(seen):
        raise InputError(f"'{path}' names no samples")
    if most > lines:
        raise InputError(f"'{path}' counts {most:,} measurements in {lines:,} lines")
    return seen, labels, most


def _swapped(piece: pd.DataFrame, path: Path) -> bool:
    """Whether the columns whose names say logit hold the logits, and not the classes."""
    margin, apart = columns.measurements(piece["margin"], path), []
    for pair in _PAIRS:
        target, other = (columns.measurements(piece[name], path) for name in pair)
        with np.errstate(invalid="ignore"):
            difference = np.abs(target - other - margin)
        known = ~np.isnan(difference)
        apart.append(float(np.median(difference[known])) if known.any() else np.inf)
    return apart[1] < apart[0]


def _lines(path: Path, line: int, piece: pd.DataFrame) -> str:
    return f"'{path}', lines {line} to {line + len(piece) - 1}"


def _spooled(path: Path, told: Told, ids: np.ndarray, epochs: list[int]) -> np.ndarray:
    """float32 [epochs, 3, N] on disk, in a file without a name: logits, and 1 more than `correct`, 0 where nothing is.

    Raises InputError for a measurement that is there twice, or not at all.
    """
    place = np.full(max(epochs) + 1, -1)
    place[epochs] = np.arange(len(epochs))
    found = room(told.folder, (len(epochs), len(PLANES), len(ids)))
    swapped: bool | None = None
    for line, piece in _pieces(path, told):
        swapped = _swapped(piece, path) if swapped is None else swapped
        rows = told.ids(piece[SAMPLE].to_numpy(), _lines(path, line, piece))
        at = piece[MEASURED].to_numpy(np.int64)
        kept = (at < len(place)) & (place[np.minimum(at, len(place) - 1)] >= 0)
        z = _logits(piece, swapped, path, line)
        e, n = place[at[kept]], np.searchsorted(ids, rows[kept])
        flat = e * len(ids) + n
        again = found[e, 2, n] != 0
        again[np.setdiff1d(np.arange(len(flat)), np.unique(flat, return_index=True)[1])] = True
        if again.any():
            row = int(np.flatnonzero(kept)[again.argmax()])
            raise InputError(
                f"'{path}', line {line + row}, is measurement {at[row]} of sample {rows[row]} a second time"
            )
        for k in range(len(PLANES)):
            found[e, k, n] = z[k][kept]
    _check_filled(found, ids, epochs, path)
    return found


def _logits(piece: pd.DataFrame, swapped: bool, path: Path, line: int) -> list[np.ndarray]:
    """Label's logit, largest other one, and `correct` + 1, float64 [n] each. Raises InputError for other margins."""
    logits, classes = reversed(_PAIRS) if swapped else _PAIRS
    target, other = (columns.measurements(piece[name], path) for name in logits)
    margin = columns.measurements(piece["margin"], path)
    label, rival = (columns.measurements(piece[name], path) for name in classes)
    with np.errstate(invalid="ignore"):
        apart = np.abs(target - other - margin)
        wrong = apart > CLOSE * np.maximum(1.0, np.maximum(np.abs(target), np.abs(other)))
        wrong |= np.isnan(margin) & ~np.isnan(target - other)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"'{path}', line {line + row}, has margin {margin[row]:g} where its logits are "
            f"{target[row]:g} and {other[row]:g}",
            "it may have been cut off, or the columns are not those of aum's records",
        )
    # As everywhere, the first of equal logits is the network's answer.
    correct = np.where(target == other, label < rival, target > other).astype(np.float64)
    correct[np.isnan(target) | np.isnan(other) | ((target == other) & np.isnan(label + rival))] = np.nan
    return [target, other, correct + 1.0]


def _check_filled(found: np.ndarray, ids: np.ndarray, epochs: list[int], path: Path) -> None:
    for k, epoch in enumerate(epochs):
        empty = found[k, 2] == 0
        if empty.any():
            enough = epochs[k - 1] if k else 0
            raise InputError(
                f"'{path}' has no measurement {epoch} of {int(empty.sum()):,} samples, such as {ids[empty.argmax()]}",
                f"--end-epoch {enough} takes those that all samples have" if enough else "",
            )
