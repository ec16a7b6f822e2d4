"""Where the metrics come from: each source gives columns by integer sample id."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.correlate import splits
from modeconn_cli.engine.errors import InputError, must_exist
from modeconn_cli.engine.results import arrays, columns, manifest, memo_scores, records, tracking_file
from modeconn_cli.engine.results.memo_scores import MEMO

IDS = "sample_ids.npy"
JOBS = ("csl", "curvature", "dormant")  # that make arrays per sample
CURVATURE, DIRECTIONAL = "per_image_curvature.npy", "per_image_directional_eig.npy"
SCORES, POSITION = "mcx.scores/1", "position"  # of the tables of scores
CURVATURE_LABELS = "per_image_labels.npy"
PER_EPOCH = "csl_per_epoch"
_DORMANT = re.compile(r"dormant_(?:props|post)_epoch_(\d+)\.npy")
EPOCH_FOLDER = re.compile(r"epoch_\d+")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Some columns of some samples. `table` has a row per sample, indexed by its id (int64, ascending); NaN is missing.

    `metrics` (float32 or float64) and `flags` (0 and 1, float64) are names of columns; all others are facts about the
    sample (class_id, task_num, first_epoch, …), whole numbers in float64. `assumed`: positions stood for the ids.
    """

    name: str
    path: Path
    table: pd.DataFrame
    metrics: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    split: str = ""
    assumed: bool = False
    files: tuple[Path, ...] = ()
    ends: Mapping[str, str] = field(
        default_factory=dict
    )  # metric -> high, low or either: where hard samples lie


def existing(path: Path) -> Path:
    """The path itself. Raises InputError where nothing is there."""
    must_exist(path)
    return path


def ids_of(path: Path, count: int, assume: bool) -> tuple[np.ndarray, tuple[Path, ...]]:
    """The ids of an array [count] and the file beside it that names them, none where positions stand for the ids.

    Raises InputError where neither is there, and where the lengths differ.
    """
    found = _DORMANT.fullmatch(path.name)
    beside = path.with_name(f"sample_ids_epoch_{found[1]}.npy" if found else IDS)
    if not beside.exists() and EPOCH_FOLDER.fullmatch(path.parent.name):
        beside = path.parent.parent / IDS  # mcx curvature keeps one file of ids for all its epochs
    if path.exists():
        manifest.check([beside], JOBS)
    if beside.exists():
        ids = arrays.read_ids(beside)
        if len(ids) != count:
            raise InputError(f"'{beside}' names {len(ids):,} samples, '{path}' holds {count:,}")
        return ids, (beside,)
    if not assume:
        raise InputError(
            f"there is no '{beside.name}' beside '{path}'",
            "pass --assume-index if it holds sample 0, 1, 2 … in this order",
        )
    return np.arange(count), ()


def array(
    name: str,
    path: Path,
    column: str,
    jobs: Iterable[str],
    assume: bool,
    *,
    beside: Mapping[str, Path] | None = None,
    labels: Path | None = None,
    split: str | None = None,
) -> Source:
    """An array [N] as a metric, with those `beside` it that are there as further ones, and `labels` as class ids.

    `split` is what the records of its folder say, where they were read already.

    Raises InputError where one of `jobs` has made it and has not finished, and for arrays of different lengths.
    """
    if path.exists():
        manifest.check([path], tuple(jobs))
    values = columns.read_array(path)
    ids, ids_file = ids_of(path, len(values), assume)
    more = {key: file for key, file in (beside or {}).items() if file.exists()}
    found = {column: values, **{key: _companion(file, path, len(ids)) for key, file in more.items()}}
    files = [path, *ids_file, *more.values()]
    if labels is not None and labels.exists():
        classes = pd.Series(_companion(labels, path, len(ids)), name="class_id")
        found = {"class_id": columns.whole(classes, labels), **found}
        files.append(labels)
    return Source(
        name=name,
        path=path,
        table=columns.by_id(ids, found, path),
        metrics=(column, *more),
        split=splits.of(path.parent, jobs) if split is None else split,
        assumed=not ids_file,
        files=tuple(files),
    )


def _companion(file: Path, path: Path, count: int) -> np.ndarray:
    """The array in `file`, of the samples of the one in `path`. Raises InputError for another length."""
    manifest.check([file], JOBS)
    values = columns.read_array(file)
    if len(values) != count:
        raise InputError(f"'{file}' holds {len(values):,} samples, '{path}' {count:,}")
    return values


def csl(path: Path, assume: bool) -> Source:
    """Cumulative loss, and its mean per epoch where the number of epochs differs between samples."""
    per_epoch = path.with_name(f"{PER_EPOCH}_{path.name.removeprefix('csl_')}")
    return array("csl", path, "csl", ("csl",), assume, beside={PER_EPOCH: per_epoch})


def scores(path: Path, taken: Collection[str], assume: bool) -> Source:
    """The table of scores of a run, without those that are `taken`, each with the end at which hard samples lie.

    Raises InputError for a table that does not say what its columns are, or whose samples nobody names.
    """
    path, said = only(path, "scores_*.csv"), said_of(path)
    if path.suffix.lower() != ".csv" or not existing(path).is_file() or not said.exists():
        raise InputError(
            f"'{path}' is no table of scores with its .json beside it", "mcx csl aggregate writes both"
        )
    manifest.check([path, said], JOBS)
    document = records.read_object(said)
    rows = document.get("scores")
    if document.get("schema") != SCORES or not isinstance(rows, list):
        raise InputError(f"'{said}' does not say what the scores are", "aggregate the arrays again")
    table = columns.read_samples(path, (columns.ID, *((POSITION,) if assume else ())))
    count = document.get("samples")
    if count != len(table):
        raise InputError(
            f"'{path}' holds {len(table):,} samples, '{said.name}' says {count}", "aggregate the arrays again"
        )
    ends = {
        row["name"]: str(row.get("hard"))
        for row in rows
        if isinstance(row, dict) and row.get("name") in table
    }
    wanted = [str(name) for name in table if name in ends and name not in taken]
    found = {name: columns.measurements(table[name], path) for name in wanted}
    return Source(
        name="scores",
        path=path,
        table=pd.DataFrame(found, table.index),
        metrics=tuple(wanted),
        split=splits.FILES.get(str(document.get("split")), ""),
        assumed=assume and not _has_ids(path),
        files=(path, said),
        ends=ends,
    )


def said_of(path: Path) -> Path:
    """What says what the columns of a table of scores are, or of the only one of a folder."""
    return only(path, "scores_*.csv").with_suffix(".json")


def _has_ids(path: Path) -> bool:
    with path.open(encoding="utf-8") as file:
        return columns.ID in file.readline().strip().split(",")


def only(path: Path, pattern: str, others: tuple[str, ...] = ()) -> Path:
    """The file itself, or the only one of a folder that fits and does not begin as `others` do."""
    if not existing(path).is_dir():
        return path
    there = sorted(file for file in path.glob(pattern) if not file.name.startswith(others))
    if not there:
        raise InputError(f"'{path}' holds no {pattern}")
    if len(there) > 1:
        shown = ", ".join(file.name for file in there[:5])
        raise InputError(f"'{path}' holds {len(there)} files {pattern}: {shown}", "name one of them")
    return there[0]


def curvature(path: Path, assume: bool) -> Source:
    """Curvature and directional eigenvalue, with class ids where the labels lie beside them."""
    if path.is_dir() and (path / CURVATURE).exists():
        path = path / CURVATURE
    path = only(path, "curvature_results_*.csv")
    if path.suffix.lower() == ".csv":
        return _curvature_table(path)
    beside = {"directional_eig": path.with_name(DIRECTIONAL)}
    labels = path.with_name(CURVATURE_LABELS)
    return array("curvature", path, "curvature", ("curvature",), assume, beside=beside, labels=labels)


def _curvature_table(path: Path) -> Source:
    manifest.check([path], ("curvature",))
    read = columns.read_samples(path)
    columns.id_column(read.columns, path, ("curvature",))
    metrics = tuple(name for name in ("curvature", "directional_eig") if name in read)
    found = {name: columns.measurements(read[name], path) for name in metrics}
    if "label" in read:
        found = {"class_id": columns.whole(read["label"], path), **found}
    table, split = pd.DataFrame(found, read.index), splits.of(path.parent, ("curvature",))
    return Source(name="curvature", path=path, table=table, metrics=metrics, split=split, files=(path,))


def dormant_files(path: Path) -> dict[int, Path]:
    """epoch -> dormant_props_epoch_<e>.npy of a folder, or the one file that is meant; post where there is no props."""
    there = sorted(path.iterdir()) if existing(path).is_dir() else [path]
    # In this order props come after post and take their place.
    found = {int(match[1]): file for file in there if (match := _DORMANT.fullmatch(file.name))}
    if not found:
        where = f"'{path}' holds no" if path.is_dir() else f"'{path}' is not called"
        raise InputError(
            f"{where} dormant_props_epoch_<e>.npy or dormant_post_epoch_<e>.npy",
            "pass the --output-dir of mcx dormant",
        )
    return dict(sorted(found.items()))


def dormant(path: Path, assume: bool, split: str | None = None) -> Source:
    """The dormant proportions of one epoch, with class ids where the labels lie beside them; `split` as in `array`."""
    epoch = path.stem.rpartition("_")[2]
    post, labels = (
        path.with_name(f"dormant_post_epoch_{epoch}.npy"),
        path.with_name(f"labels_epoch_{epoch}.npy"),
    )
    column, beside = ("dormant_post", {}) if path == post else ("dormant_prop", {"dormant_post": post})
    return array("dormant", path, column, ("dormant",), assume, beside=beside, labels=labels, split=split)


def tracking(path: Path) -> Source:
    """When each sample was seen, its class, its first task, and its memorization score where the run was given any."""
    table = tracking_file.read(path)
    metrics = (MEMO,) if MEMO in table else ()
    return Source(name="tracking", path=path, table=table, metrics=metrics, split="train", files=(path,))


def memo(path: Path, assume: bool) -> Source:
    """Memorization scores of a .csv, .npz or .npy; a sample without a score has none, never 0."""
    if existing(path).suffix.lower() == ".npy":
        return array("memo", path, MEMO, (), assume)
    scores, assumed = memo_scores.read(path, assume=assume)
    table = scores.to_frame(MEMO)
    return Source(name="memo", path=path, table=table, metrics=(MEMO,), assumed=assumed, files=(path,))
