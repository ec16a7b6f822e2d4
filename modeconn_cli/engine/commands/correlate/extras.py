"""Sources that anyone may have made: memorization scores, further metrics, flags, names of classes."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from modeconn_cli.engine.commands.correlate import sources
from modeconn_cli.engine.commands.correlate.sources import Source
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import columns, files
from modeconn_cli.engine.training import memo_scores
from modeconn_cli.engine.training.memo_scores import MEMO

_GROUPS = {"label", "labels", "class_id", "task_num"}  # columns that measure nothing
_FLIPPED = "flipped"  # of the project's own label_noise_*.csv, whose other columns are labels
_TRUTH = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}


def memo(path: Path, assume: bool) -> Source:
    """Memorization scores of a .csv, .npz or .npy; a sample without a score has none, never 0."""
    if not path.exists():
        raise InputError(f"'{path}' does not exist")
    if path.suffix.lower() == ".npy":
        return sources.array("memo", path, MEMO, (), assume)
    found = memo_scores.read(path, assume=assume)
    return Source(
        name="memo",
        path=path,
        ids=found.ids,
        metrics={MEMO: found.scores},
        assumed=found.assumed,
        files=(path,),
    )


def further(path: Path, taken: Collection[str], assume: bool, runtime: Runtime) -> Source:
    """Every column of numbers of a .csv, or an array, as metrics; names that are taken get the file's before them."""
    if not path.exists():
        raise InputError(f"'{path}' does not exist")
    name = f"with {path.name}"
    if path.suffix.lower() == ".npy":
        return sources.array(
            name, path, _free(path.stem, path, taken), ("csl", "curvature", "dormant"), assume
        )
    frame = columns.read_csv(path)
    ids = columns.id_column(frame.columns, path)
    # A column without a heading is the index that pandas writes.
    rest = [name for name in frame.columns if name != ids and not str(name).startswith("Unnamed: ")]
    if groups := [name for name in rest if name in _GROUPS]:
        runtime.note(f"left out of '{path}', as they number classes and tasks: {', '.join(groups)}")
        rest = [name for name in rest if name not in _GROUPS]
    numeric = [name for name in rest if frame[name].dtype.kind in "iufb"]
    if not numeric:
        raise InputError(f"'{path}' has no column of numbers beside {ids}")
    if len(numeric) < len(rest):
        left = [str(name) for name in rest if name not in numeric]
        runtime.note(f"left out of '{path}', as they are not numbers: {', '.join(left[:12])}")
    metrics: dict[str, np.ndarray] = {}
    for column in numeric:
        metrics[_free(str(column), path, {*taken, *metrics})] = frame[column].to_numpy(dtype=np.float64)
    return Source(
        name=name, path=path, ids=columns.sample_ids(frame[ids], path), metrics=metrics, files=(path,)
    )


def _free(name: str, path: Path, taken: Collection[str]) -> str:
    """The name, or the file's name before it. Raises InputError where both are taken."""
    for found in (name, f"{path.stem}_{name}"):
        if found not in taken:
            return found
    raise InputError(
        f"'{path}' gives '{name}', which another source gives too", "rename the file or the column"
    )


def flags(path: Path, taken: Collection[str], assume: bool) -> Source:
    """Columns of 0 and 1 that the metrics are held against."""
    if not path.exists():
        raise InputError(f"'{path}' does not exist")
    if path.suffix.lower() == ".npy":
        return _flag_array(path, taken, assume)
    frame = columns.read_csv(path)
    ids = columns.id_column(frame.columns, path)
    rest = [name for name in frame.columns if name != ids and name not in _GROUPS]
    binary = {name: column for name in rest if (column := _truth(frame[name])) is not None}
    if not binary:
        raise InputError(
            f"'{path}' has no column of 0 and 1 beside {ids}", f"it has: {', '.join(map(str, rest[:12]))}"
        )
    if _FLIPPED in binary:
        binary = {_FLIPPED: binary[_FLIPPED]}
    named = {_free(str(name), path, taken): column for name, column in binary.items()}
    return Source(
        name="flags", path=path, ids=columns.sample_ids(frame[ids], path), flags=named, files=(path,)
    )


def _flag_array(path: Path, taken: Collection[str], assume: bool) -> Source:
    from modeconn_cli.engine.results import arrays

    column = _truth(pd.Series(np.asarray(arrays.read(path, kinds="biuf"))))
    if column is None:
        raise InputError(f"'{path}' holds other values than 0 and 1")
    ids, beside = sources.ids_of(path, len(column), assume)
    return Source(
        name="flags",
        path=path,
        ids=ids,
        flags={_free(path.stem, path, taken): column},
        assumed=beside is None,
        files=(path, *([beside] if beside else [])),
    )


def _truth(column: Any) -> np.ndarray | None:
    """0 and 1 as float64 [N], NaN where empty; None where anything else is among them, or nothing at all."""
    kinds = [kind for kind in column.unique() if not pd.isna(kind)]
    if not kinds or any(str(kind).strip().lower() not in _TRUTH for kind in kinds):
        return None
    return np.asarray(
        column.map({kind: _TRUTH[str(kind).strip().lower()] for kind in kinds}), dtype=np.float64
    )


def class_names(path: Path) -> dict[int, str]:
    """class id -> name. Raises InputError for what is no such table."""
    if not path.exists():
        raise InputError(f"'{path}' does not exist")
    with files.reading(path):
        try:
            text = path.read_text("utf-8-sig")
            pairs = _map_rows(text, path) if path.suffix.lower() == ".csv" else _map_object(text, path)
        except (ValueError, csv.Error, yaml.YAMLError, RecursionError) as error:
            raise InputError(
                f"'{path}' is not a readable map of classes: {' '.join(str(error).split())}"
            ) from error
    ids = columns.sample_ids([number for number, _ in pairs], path, what="class ids")
    return dict(zip(ids.tolist(), (name for _, name in pairs), strict=True))


def _map_rows(text: str, path: Path) -> list[tuple[str, str]]:
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    heads = rows[0].keys() if rows else ()
    for name in ("class_id", "class_name"):
        columns.id_column([head for head in heads if head], path, (name,))
    return [(row["class_id"], row["class_name"] or "") for row in rows]


def _map_object(text: str, path: Path) -> list[tuple[str, str]]:
    # BaseLoader keeps names such as `no` and `1e3` as they are written.
    content = json.loads(text) if path.suffix.lower() == ".json" else yaml.load(text, Loader=yaml.BaseLoader)
    if not isinstance(content, Mapping) or any(isinstance(name, list | dict) for name in content.values()):
        raise InputError(
            f"'{path}' is not an object of class ids and names", 'write {"0": "cat", "1": "dog"}'
        )
    return [(str(number), str(name)) for number, name in content.items()]
