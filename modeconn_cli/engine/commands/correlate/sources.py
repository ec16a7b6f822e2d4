"""Where the metrics come from: each source gives columns by integer sample id."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from modeconn_cli.engine.commands.correlate import splits
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import columns, manifest

IDS = "sample_ids.npy"
JOBS = ("csl", "curvature", "dormant")  # that make arrays per sample
CURVATURE, DIRECTIONAL = "per_image_curvature.npy", "per_image_directional_eig.npy"
CURVATURE_LABELS = "per_image_labels.npy"
PER_EPOCH = "csl_per_epoch"
_DORMANT = re.compile(r"dormant_(?:props|post)_epoch_(\d+)\.npy")
_EPOCH_FOLDER = re.compile(r"epoch_\d+")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Columns of N samples in the order of their ids; `assumed`: position stood for the id.

    `metrics` float [N]; `facts` (class_id, task_num, first_epoch, …) and `flags` (0, 1) float64 [N]; NaN is missing.
    """

    name: str
    path: Path
    ids: np.ndarray
    metrics: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, np.ndarray] = field(default_factory=dict)
    flags: Mapping[str, np.ndarray] = field(default_factory=dict)
    split: str = ""
    assumed: bool = False
    files: tuple[Path, ...] = ()

    def columns(self) -> dict[str, np.ndarray]:
        return {**self.facts, **self.metrics, **self.flags}


def in_order(source: Source) -> Source:
    """The same with the samples in the order of their ids. Raises InputError for one without samples."""
    if len(source.ids) == 0:
        raise InputError(f"'{source.path}' names no samples")
    if (source.ids[1:] > source.ids[:-1]).all():
        return source
    order = np.argsort(source.ids)

    def sorted_(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: column[order] for name, column in columns.items()}

    return replace(
        source,
        ids=source.ids[order],
        metrics=sorted_(source.metrics),
        facts=sorted_(source.facts),
        flags=sorted_(source.flags),
    )


def places(among: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where each of `ids` stands in `among`, which ascends and is not empty; -1 for nowhere."""
    place = np.searchsorted(among, ids)
    place[place == len(among)] = 0
    place[among[place] != ids] = -1
    return place


def ids_of(path: Path, count: int, assume: bool) -> tuple[np.ndarray, Path | None]:
    """The ids of an array [count] and the file beside it that names them, None where position stands for the id.

    Raises InputError where neither is there, and where the lengths differ.
    """
    found = _DORMANT.fullmatch(path.name)
    beside = path.with_name(f"sample_ids_epoch_{found[1]}.npy") if found else path.with_name(IDS)
    if not beside.exists() and _EPOCH_FOLDER.fullmatch(path.parent.name):
        beside = path.parent.parent / IDS  # mcx curvature keeps one file of ids for all its epochs
    if beside.exists():
        ids = columns.read_ids(beside)
        if len(ids) != count:
            raise InputError(f"'{beside}' names {len(ids):,} samples, '{path}' holds {count:,}")
        return ids, beside
    if not assume:
        raise InputError(
            f"there is no '{beside.name}' beside '{path}'",
            "pass --assume-index if it holds sample 0, 1, 2 … in this order",
        )
    return np.arange(count), None


def array(name: str, path: Path, column: str, kinds: Iterable[str], assume: bool) -> Source:
    """One array [N] as a metric."""
    if path.exists():
        manifest.check(path, tuple(kinds))
    metric = columns.read_array(path)
    ids, beside = ids_of(path, len(metric), assume)
    return Source(
        name=name,
        path=path,
        ids=ids,
        metrics={column: metric},
        split=splits.of(path.parent, kinds),
        assumed=beside is None,
        files=(path, *([beside] if beside else [])),
    )


def with_companions(source: Source, metrics: Mapping[str, Path], facts: Mapping[str, Path]) -> Source:
    """The source with the arrays beside it that are there. Raises InputError for other lengths."""

    def read(found: Mapping[str, Path], reader: Callable[[Path], np.ndarray]) -> dict[str, np.ndarray]:
        there = {name: path for name, path in found.items() if path.exists()}
        for path in there.values():
            manifest.check(path, JOBS)
        out = {name: reader(path) for name, path in there.items()}
        for name, column in out.items():
            if len(column) != len(source.ids):
                raise InputError(
                    f"'{found[name]}' holds {len(column):,} samples, '{source.path}' {len(source.ids):,}"
                )
        return out

    return replace(
        source,
        metrics={**source.metrics, **read(metrics, columns.read_array)},
        facts={**source.facts, **read(facts, labels)},
        files=(*source.files, *(p for p in (*metrics.values(), *facts.values()) if p.exists())),
    )


def labels(path: Path) -> np.ndarray:
    """Class ids, float64 [N]."""
    import pandas as pd

    return columns.whole(pd.Series(columns.read_array(path), name="class_id"), path)


def csl_file(path: Path) -> Path:
    """The csl_*.npy that is meant."""
    return _only(path, "csl_*.npy", ("csl_ce_", f"{PER_EPOCH}_"))


def csl(path: Path, assume: bool) -> Source:
    """Cumulative loss, and its mean per epoch where the number of epochs differs between samples."""
    source = array("csl", path, "csl", ("csl",), assume)
    beside = path.with_name(f"{PER_EPOCH}_{path.name.removeprefix('csl_')}")
    return with_companions(source, {PER_EPOCH: beside}, {})


def lt_file(path: Path) -> Path:
    """The lt_*.npy that is meant."""
    return _only(path, "lt_*.npy", ("lt_first_epoch_",))


def _only(path: Path, pattern: str, others: tuple[str, ...]) -> Path:
    """The file itself, or the only one of a folder that fits."""
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"'{path}' does not exist")
        return path
    there = sorted(p for p in path.glob(pattern) if not p.name.startswith(others))
    if not there:
        raise InputError(f"'{path}' holds no {pattern}")
    if len(there) > 1:
        shown = ", ".join(p.name for p in there[:5])
        raise InputError(f"'{path}' holds {len(there)} files {pattern}: {shown}", "name one of them")
    return there[0]


def curvature(path: Path, assume: bool) -> Source:
    """Curvature and directional eigenvalue, with class ids where the labels lie beside them."""
    if path.is_dir():
        plain = path / CURVATURE
        path = plain if plain.exists() else _only(path, "curvature_results_*.csv", ())
    elif not path.exists():
        raise InputError(f"'{path}' does not exist")
    if path.suffix.lower() == ".csv":
        return _curvature_table(path)
    source = array("curvature", path, "curvature", ("curvature",), assume)
    return with_companions(
        source,
        {"directional_eig": path.with_name(DIRECTIONAL)},
        {"class_id": path.with_name(CURVATURE_LABELS)},
    )


def _curvature_table(path: Path) -> Source:
    manifest.check(path, ("curvature",))
    frame = columns.read_csv(path)
    ids = columns.sample_ids(frame[columns.id_column(frame.columns, path)], path)
    columns.id_column(frame.columns, path, ("curvature",))
    there = [name for name in ("curvature", "directional_eig") if name in frame.columns]
    return Source(
        name="curvature",
        path=path,
        ids=ids,
        metrics={name: columns.measurements(frame[name], path) for name in there},
        facts={"class_id": columns.whole(frame["label"], path)} if "label" in frame.columns else {},
        split=splits.of(path.parent, ("curvature",)),
        files=(path,),
    )


def dormant_files(path: Path) -> dict[int, Path]:
    """epoch -> dormant_props_epoch_<e>.npy of a folder, or the one file that is meant; post where there is no props."""
    if not path.exists():
        raise InputError(f"'{path}' does not exist")
    there = sorted(path.iterdir()) if path.is_dir() else [path]
    # In this order props come after post and take their place.
    found = {int(match[1]): p for p in there if (match := _DORMANT.fullmatch(p.name))}
    if not found:
        where = f"'{path}' holds no" if path.is_dir() else f"'{path}' is not called"
        raise InputError(
            f"{where} dormant_props_epoch_<e>.npy or dormant_post_epoch_<e>.npy",
            "pass the --output-dir of mcx dormant",
        )
    return dict(sorted(found.items()))


def dormant(epoch: int, path: Path, assume: bool) -> Source:
    """The dormant proportions of one epoch, with class ids where the labels lie beside them."""
    names = {
        "dormant_prop": f"dormant_props_epoch_{epoch}.npy",
        "dormant_post": f"dormant_post_epoch_{epoch}.npy",
    }
    own = next(name for name, file in names.items() if file == path.name)
    source = array("dormant", path, own, ("dormant",), assume)
    return with_companions(
        source,
        {name: path.with_name(file) for name, file in names.items() if name != own and own == "dormant_prop"},
        {"class_id": path.with_name(f"labels_epoch_{epoch}.npy")},
    )


def check_assumed(sources: Iterable[Source], runtime: Runtime) -> list[str]:
    """The names of the sources whose ids are positions; they must be equally long, or InputError."""
    assumed = [source for source in sources if source.assumed]
    if len({len(source.ids) for source in assumed}) > 1:
        shown = ", ".join(f"'{source.path}' {len(source.ids):,}" for source in assumed)
        raise InputError(f"arrays without ids must be equally long for --assume-index: {shown}")
    if assumed:
        shown = ", ".join(source.name for source in assumed)
        runtime.note(f"position stands for the sample id in: {shown} (--assume-index)")
    return [source.name for source in assumed]
