"""Evaluations of paths as folders hold them: those of `mcx curve eval`, `mcx lmc interpolate` and the original
`eval_curve.py`, whose `curve.npz` has no summary beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.paths.barriers import Barriers
from modeconn_cli.engine.paths.evaluate import barriers_of
from modeconn_cli.engine.results import arrays, records

FILES = {names.CURVE_ARRAYS: names.CURVE_SUMMARY, names.LINE_ARRAYS: names.LINE_SUMMARY}
_SERIES = ("tr_nll", "tr_err", "te_nll", "te_err")


@dataclass(frozen=True)
class Evaluated:
    """What was measured along a path: `arrays` hold `ts` and series, float64 [T] each.

    What no summary says is None. `distance` is that between the ends, `length` that of the path through its positions.
    """

    file: Path
    kind: str
    arrays: Mapping[str, np.ndarray]
    length: float
    distance: float | None
    held_out: str
    bn: str | None
    dataset: str | None

    @property
    def barriers(self) -> Barriers:
        return barriers_of(self.arrays)

    @property
    def finite(self) -> bool:
        return all(bool(np.isfinite(self.arrays[name]).all()) for name in _SERIES)


def in_folder(folder: Path) -> Iterator[Evaluated]:
    """The evaluations that lie in a folder. Raises InputError for files that are none."""
    for name, summary in FILES.items():
        if (folder / name).exists():
            yield _read(folder / name, folder / summary)


def files_in(folder: Path) -> list[Path]:
    """The files of evaluations that lie in a folder."""
    return [folder / name for pair in FILES.items() for name in pair if (folder / name).exists()]


def _read(path: Path, beside: Path) -> Evaluated:
    found = arrays.read_npz(path)
    wanted = ("ts", "dl", *_SERIES)
    lacking = [name for name in wanted if name not in found]
    if lacking:
        raise InputError(
            f"'{path}' has no {lacking[0]}", "pass the folder of an evaluation of mcx curve eval"
        )
    series = {name: np.asarray(found[name], dtype=np.float64) for name in wanted}
    ts = series["ts"]
    whole = all(values.shape == ts.shape and ts.ndim == 1 for values in series.values())
    if not whole or len(ts) < 2 or ts[0] != 0 or ts[-1] != 1 or (np.diff(ts) <= 0).any():
        raise InputError(f"'{path}' does not hold series at positions t from 0 to 1")
    said: Mapping[str, Any] = records.read_object(beside) if beside.exists() else {}
    policy, data = said.get("bn"), said.get("data")
    distance = said.get("endpoint_distance", said.get("distance"))
    return Evaluated(
        path,
        str(said.get("curve", "line" if path.name == names.LINE_ARRAYS else "curve")),
        series,
        float(series["dl"].sum()),
        float(distance) if isinstance(distance, int | float) else None,
        str(said.get("held_out", "test")),
        str(policy["policy"]) if isinstance(policy, Mapping) and "policy" in policy else None,
        str(data["dataset"]) if isinstance(data, Mapping) and data.get("dataset") else None,
    )
