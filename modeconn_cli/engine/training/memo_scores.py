"""Memorization scores that a run or a table takes: a .csv or an .npz with a score per sample id."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import columns

MEMO = "memo_score"
_NPZ_SCORES = ("memo_score", "memo_scores", "memorization", "memorization_scores", "tr_mem", "scores")
_NPZ_IDS = ("sample_ids", "sample_id", "ids", "index", "tr_idx")
_ID_COLUMNS = ("sample_id", "id", "index")


@dataclass(frozen=True)
class MemoScores:
    """Scores [N] of the samples `ids` [N]; `assumed`: position stood for the id."""

    ids: np.ndarray
    scores: np.ndarray
    assumed: bool


def read(path: Path, *, assume: bool) -> MemoScores:
    """Memorization scores of a .csv or an .npz; where an .npz has no ids, `assume` takes positions for them."""
    return _memo_npz(path, assume) if path.suffix.lower() == ".npz" else _memo_csv(path)


def _memo_csv(path: Path) -> MemoScores:
    frame = columns.read_csv(path)
    ids = columns.id_column(frame.columns, path, _ID_COLUMNS)
    rest = [name for name in frame.columns if name != ids]
    score = MEMO if MEMO in rest else None
    if score is None:
        numeric = [name for name in rest if frame[name].dtype.kind in "iuf"]
        if len(numeric) != 1:
            raise InputError(
                f"'{path}' has no column {MEMO} and {len(numeric) or 'no'} other columns of numbers",
                f"it has: {', '.join(map(str, rest[:12]))}",
            )
        score = numeric[0]
    return MemoScores(
        columns.sample_ids(frame[ids], path), columns.measurements(frame[score], path), assumed=False
    )


def _memo_npz(path: Path, assume: bool) -> MemoScores:
    try:
        # Opened here, as np.load leaves a broken archive open.
        with path.open("rb") as stream, NpzFile(stream, allow_pickle=False) as archive:
            there = list(archive.files)
            score = _one_of(_NPZ_SCORES, there, "scores", path)
            named = [name for name in _NPZ_IDS if name in there]
            if not named and not assume:
                raise InputError(
                    f"'{path}' holds no array of sample ids ({', '.join(_NPZ_IDS)})",
                    f"it holds: {_listed(there)}",
                )
            scores = np.asarray(archive[score]).squeeze()
            ids = archive[_one_of(_NPZ_IDS, there, "sample ids", path)] if named else np.arange(scores.size)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"'{path}' is not a readable .npz archive: {error}") from error
    if scores.ndim != 1 or scores.dtype.kind not in "fiu" or ids.shape != scores.shape:
        raise InputError(
            f"'{path}' holds scores {scores.dtype} {scores.shape} and ids {ids.dtype} {ids.shape}, expected numbers [N]"
        )
    kind = scores.dtype if scores.dtype in (np.float32, np.float64) else np.float64
    return MemoScores(columns.sample_ids(ids, path), scores.astype(kind), assumed=not named)


def _one_of(known: Iterable[str], there: Collection[str], what: str, path: Path) -> str:
    found = [name for name in known if name in there]
    if len(found) != 1:
        raise InputError(
            f"'{path}' holds {len(found) or 'no'} arrays that could be {what}", f"it holds: {_listed(there)}"
        )
    return found[0]


def _listed(names: Collection[str]) -> str:
    return ", ".join(list(names)[:12]) or "nothing"


def as_text(path: Path) -> dict[int, str]:
    """Scores by sample id, as text that reads back as they are; missing ones are left out."""
    if path.suffix.lower() == ".npy":
        raise InputError(
            f"'{path}' has no sample ids", "pass a .csv or an .npz with sample_id and memo_score"
        )
    found = read(path, assume=False)
    if len(found.ids) == 0:
        raise InputError(f"'{path}' names no samples")
    exact = found.scores.dtype == np.float32
    return {
        int(i): (f"{float(value):.9g}" if exact else repr(float(value)))
        for i, value in zip(found.ids.tolist(), found.scores, strict=True)
        if np.isfinite(value)
    }
