"""Sources that anyone may have made: memorization scores, further metrics, flags, names of classes."""

from __future__ import annotations

import csv
import json
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.lib.npyio import NpzFile

from modeconn_cli.engine.commands.correlate import sources, values
from modeconn_cli.engine.commands.correlate.sources import Source
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files

MEMO = "memo_score"
_ID_COLUMNS = ("sample_id", "id", "index")
_NPZ_IDS = ("sample_ids", "sample_id", "ids", "index", "tr_idx")
_NPZ_SCORES = ("memo_score", "memo_scores", "memorization", "memorization_scores", "tr_mem", "scores")
_GROUPS = {"label", "labels", "class_id", "task_num"}  # columns that measure nothing
_FLIPPED = "flipped"  # of the project's own label_noise_*.csv, whose other columns are labels
_TRUTH = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}


def memo(path: Path, assume: bool) -> Source:
    """Memorization scores of a .csv, .npz or .npy; a sample without a score has none, never 0."""
    if not path.exists():
        raise InputError(f"'{path}' does not exist")
    kind = path.suffix.lower()
    if kind == ".npy":
        return sources.array("memo", path, MEMO, (), assume)
    return _memo_npz(path, assume) if kind == ".npz" else _memo_csv(path)


def _memo_csv(path: Path) -> Source:
    frame = values.read_csv(path)
    ids = values.id_column(frame.columns, path, _ID_COLUMNS)
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
    return Source(
        name="memo",
        path=path,
        ids=values.sample_ids(frame[ids], path),
        metrics={MEMO: values.measurements(frame[score], path)},
        files=(path,),
    )


def _memo_npz(path: Path, assume: bool) -> Source:
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
    return Source(
        name="memo",
        path=path,
        ids=values.sample_ids(ids, path),
        metrics={MEMO: scores.astype(kind)},
        assumed=not named,
        files=(path,),
    )


def _one_of(known: Iterable[str], there: Collection[str], what: str, path: Path) -> str:
    found = [name for name in known if name in there]
    if len(found) != 1:
        raise InputError(
            f"'{path}' holds {len(found) or 'no'} arrays that could be {what}", f"it holds: {_listed(there)}"
        )
    return found[0]


def _listed(names: Collection[str]) -> str:
    return ", ".join(list(names)[:12]) or "nothing"


def further(path: Path, taken: Collection[str], assume: bool, runtime: Runtime) -> Source:
    """Every column of numbers of a .csv, or an array, as metrics; names that are taken get the file's before them."""
    if not path.exists():
        raise InputError(f"'{path}' does not exist")
    name = f"with {path.name}"
    if path.suffix.lower() == ".npy":
        return sources.array(
            name, path, _free(path.stem, path, taken), ("csl", "curvature", "dormant"), assume
        )
    frame = values.read_csv(path)
    ids = values.id_column(frame.columns, path)
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
        name=name, path=path, ids=values.sample_ids(frame[ids], path), metrics=metrics, files=(path,)
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
    frame = values.read_csv(path)
    ids = values.id_column(frame.columns, path)
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
        name="flags", path=path, ids=values.sample_ids(frame[ids], path), flags=named, files=(path,)
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
    ids = values.sample_ids([number for number, _ in pairs], path, what="class ids")
    return dict(zip(ids.tolist(), (name for _, name in pairs), strict=True))


def _map_rows(text: str, path: Path) -> list[tuple[str, str]]:
    rows = list(csv.DictReader(text.splitlines(keepends=True)))
    heads = rows[0].keys() if rows else ()
    for name in ("class_id", "class_name"):
        values.id_column([head for head in heads if head], path, (name,))
    return [(row["class_id"], row["class_name"] or "") for row in rows]


def _map_object(text: str, path: Path) -> list[tuple[str, str]]:
    # BaseLoader keeps names such as `no` and `1e3` as they are written.
    content = json.loads(text) if path.suffix.lower() == ".json" else yaml.load(text, Loader=yaml.BaseLoader)
    if not isinstance(content, Mapping) or any(isinstance(name, list | dict) for name in content.values()):
        raise InputError(
            f"'{path}' is not an object of class ids and names", 'write {"0": "cat", "1": "dog"}'
        )
    return [(str(number), str(name)) for number, name in content.items()]
