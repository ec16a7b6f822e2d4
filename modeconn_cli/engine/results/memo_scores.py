"""Memorization scores that a run or a table takes: a .csv or an .npz with a score per sample id."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import columns
from modeconn_cli.engine.results.arrays import npz

MEMO = "memo_score"
_NPZ_SCORES = ("memo_score", "memo_scores", "memorization", "memorization_scores", "tr_mem", "scores")
_NPZ_IDS = ("sample_ids", "sample_id", "ids", "index", "tr_idx")
_ID_COLUMNS = ("sample_id", "id", "index")


def read(path: Path, *, assume: bool) -> tuple[pd.Series, bool]:
    """Memorization scores by sample id from a .csv or an .npz, and whether positions stood for the ids.

    They do where `assume` allows it and an .npz has no ids. Raises InputError for what holds no scores.
    """
    return _read_npz(path, assume) if path.suffix.lower() == ".npz" else (_read_csv(path), False)


def _read_csv(path: Path) -> pd.Series:
    table = columns.read_samples(path, _ID_COLUMNS)
    score = MEMO
    if MEMO not in table:
        numeric = [name for name in table.columns if table[name].dtype.kind in "iuf"]
        if len(numeric) != 1:
            raise InputError(
                f"'{path}' has no column {MEMO} and {len(numeric) or 'no'} other columns of numbers",
                f"it has: {_listed(table.columns)}",
            )
        score = numeric[0]
    return pd.Series(columns.measurements(table[score], path), table.index)


def _read_npz(path: Path, assume: bool) -> tuple[pd.Series, bool]:
    with npz(path) as archive:
        there = list(archive)
        score = _one_of(_NPZ_SCORES, there, "scores", path)
        named = [name for name in _NPZ_IDS if name in there]
        if not named and not assume:
            raise InputError(
                f"'{path}' holds no array of sample ids ({', '.join(_NPZ_IDS)})",
                f"it holds: {_listed(there)}",
            )
        scores = np.asarray(archive[score]).squeeze()
        ids = archive[_one_of(_NPZ_IDS, there, "sample ids", path)] if named else np.arange(scores.size)
    if scores.ndim != 1 or scores.dtype.kind not in "fiu" or ids.shape != scores.shape:
        raise InputError(
            f"'{path}' holds scores {scores.dtype} {scores.shape} and ids {ids.dtype} {ids.shape}, expected numbers [N]"
        )
    kind = scores.dtype if scores.dtype in (np.float32, np.float64) else np.float64
    found = columns.by_id(columns.sample_ids(ids, path), {MEMO: scores.astype(kind)}, path)
    return found[MEMO], not named


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
    scores, _ = read(path, assume=False)
    exact = scores.dtype == np.float32
    return {
        sample: (f"{score:.9g}" if exact else repr(score))
        for sample, score in zip(scores.index.tolist(), scores.tolist(), strict=True)
        if math.isfinite(score)
    }
