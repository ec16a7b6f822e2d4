"""`mcx correlate`: read, join, correlate, group, draw, write."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine.commands.correlate import (
    categories,
    evolution,
    extras,
    figures,
    given,
    sources,
    tasks,
    writer,
)
from modeconn_cli.engine.commands.correlate.evolution import Epoch
from modeconn_cli.engine.commands.correlate.groups import Groups, grouped
from modeconn_cli.engine.commands.correlate.sources import Source
from modeconn_cli.engine.commands.correlate.table import TASK, Coverage, Table, join
from modeconn_cli.engine.commands.correlate.tasks import Task
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.correlate import CorrelateSettings
from modeconn_cli.engine.statistics import Correlation, auroc, correlations

PER_SAMPLE, PARQUET, SUMMARY = "per_sample.csv", "per_sample.parquet", "correlate_summary.json"
CORRELATIONS, AUROC = "correlations.csv", "auroc.csv"
GROUP_FILES = {
    ("class_id",): "by_class.csv",
    (TASK,): "by_task.csv",
    ("class_id", TASK): "by_class_and_task.csv",
}
SCATTER, GROUPS_FIGURE, TASKS_FIGURE = "scatter.png", "groups.png", "tasks.png"
EVOLUTION, EVOLUTION_FIGURE = "evolution.csv", "evolution.png"
OWNED = (
    PER_SAMPLE, PARQUET, CORRELATIONS, AUROC, *GROUP_FILES.values(), SCATTER, GROUPS_FIGURE, TASKS_FIGURE,
    EVOLUTION, EVOLUTION_FIGURE, SUMMARY,
)  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """How many samples have a value, and how many an infinite one; NaN is a missing value."""

    name: str
    samples: int
    missing: int
    infinite: int
    median: float | None


@dataclass(frozen=True)
class Auroc:
    """The chance that a flagged sample has the larger value."""

    flag: str
    flagged: int
    metric: str
    auroc: float | None


@dataclass(frozen=True, kw_only=True)
class CorrelateResult(Record):
    """`categories`: name -> samples, those without one under an empty name; `assumed_index`: sources without ids."""

    schema: ClassVar[str] = "mcx.correlate/1"

    samples: int
    split: str | None
    how: str | None
    assumed_index: list[str]
    dormant_epoch: int | None
    sources: list[Coverage]
    metrics: list[Metric]
    correlations: list[Correlation]
    categories: dict[str, int]
    medians: dict[str, float]
    auroc: list[Auroc]
    tasks: list[Task]
    evolution: list[Epoch]
    groups: dict[str, int]  # file -> groups
    files: list[str]
    output_dir: str


@dataclass(frozen=True)
class _Measured:
    """Everything that is written, before it is."""

    table: Table
    code: np.ndarray
    categories: list[str]
    medians: dict[str, float]
    correlations: list[Correlation]
    groups: dict[tuple[str, ...], Groups]
    auroc: list[Auroc]
    tasks: list[Task]
    evolution: list[Epoch]
    class_names: dict[int, str] | None
    assumed: list[str]


def run(settings: CorrelateSettings, runtime: Runtime) -> CorrelateResult | None:
    """Join the sources by sample id and write what they say about each other."""
    folder = settings.output_dir
    if settings.parquet and importlib.util.find_spec("pyarrow") is None:
        raise SettingsError("--parquet needs pyarrow", "pip install 'modeconn-cli[parquet]'")
    found = given.find(settings)
    if runtime.plan(_plan(settings, found, folder)):
        return None
    files.check_writable(folder)
    class_names = None if settings.class_map is None else extras.class_names(settings.class_map)
    read = given.read(settings, found, runtime)
    assumed = sources.check_assumed(read, runtime)
    inputs = _inputs(settings, found, read)
    files.refuse_inputs([folder / name for name in OWNED], inputs)
    table = join(read, settings.how)
    how: dict[str, Any] = {"owned": OWNED, "mends": True, "listing": _listing(inputs)}
    with jobs.opened(settings, folder, "correlate", runtime, **how) as job:
        flag = next((source for source in read if source.flags), None)
        measured = _measure(settings, table, class_names, assumed, found, flag, runtime)
        made = _made(settings, measured)
        result = _result(settings, found, measured, [folder / name for name in made])
        if not job.complete:
            for name in set(OWNED) - set(made):
                (folder / name).unlink(missing_ok=True)  # of other inputs, before they changed
            _write(folder, settings, measured, result)
            job.finish(folder / name for name in made)
    return result


def _plan(settings: CorrelateSettings, found: given.Found, folder: Path) -> list[str]:
    paths = (settings.tracking, found.csl, found.lt, settings.curvature, settings.dormant, settings.memo)
    named = [str(path) for path in (*paths, *settings.with_files, settings.flags) if path is not None]
    return [f"join {', '.join(named)}", f"results in {folder}"]


def _inputs(settings: CorrelateSettings, found: given.Found, read: Sequence[Source]) -> list[Path]:
    """Every file that the result depends on."""
    paths = [path for source in read for path in source.files] + list(found.dormant.values())
    if settings.class_map is not None:
        paths.append(settings.class_map)
    return list(dict.fromkeys(paths))


def _listing(inputs: Sequence[Path]) -> str:
    """A line per file: name, size and time."""
    stats = [(os.fspath(path), path.stat()) for path in inputs]
    return "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats)


def _measure(
    settings: CorrelateSettings,
    table: Table,
    class_names: dict[int, str] | None,
    assumed: list[str],
    found: given.Found,
    flag: Source | None,
    runtime: Runtime,
) -> _Measured:
    columns = table.columns
    metrics = {name: columns[name] for name in table.metrics}
    for name, values in metrics.items():
        infinite = int(np.isinf(values).sum())
        if infinite:
            runtime.warn(f"{name}: {infinite:,} infinite values, not in correlations, means and medians")
    code, labels, medians = categories.split(metrics)
    if categories.fairer(metrics):
        runtime.note(
            "samples were scored at different numbers of epochs: csl_per_epoch tells high from low csl"
        )
    chosen = {k: f for k, f in GROUP_FILES.items() if set(k) <= set(settings.by)}
    groups = {}
    for keys, file in chosen.items():
        absent = [key for key in keys if key not in columns]
        if not absent:
            groups[keys] = grouped(columns, keys, table.metrics)
        elif len(keys) == 1:
            runtime.note(f"no source says {absent[0]}: no {file}")
    _compare_names(class_names, columns.get("class_id"), runtime)
    rows = tasks.split(columns) if (TASK,) in groups else {}
    members = {task: table.ids[chosen] for task, chosen in rows.items()}
    followed = []
    if len(found.dormant) > 1:
        followed = evolution.follow(found.dormant, settings.assume_index, table.ids, flag, members)
    return _Measured(
        table=table,
        code=code,
        categories=labels,
        medians=medians,
        correlations=correlations(metrics),
        groups=groups,
        auroc=[_auroc(table, flag_name, name) for flag_name in table.flags for name in table.metrics],
        tasks=tasks.progression(columns, rows, table.metrics),
        evolution=followed,
        class_names=class_names,
        assumed=assumed,
    )


def _compare_names(class_names: dict[int, str] | None, classes: np.ndarray | None, runtime: Runtime) -> None:
    if class_names is None:
        return
    present = set() if classes is None else {int(c) for c in np.unique(classes[~np.isnan(classes)])}
    unknown, unnamed = len(set(class_names) - present), len(present - set(class_names))
    if unknown:
        runtime.note(f"{unknown:,} classes of --class-map have no sample")
    if unnamed:
        runtime.note(f"{unnamed:,} classes have no name in --class-map")


def _auroc(table: Table, flag: str, metric: str) -> Auroc:
    marks = table.columns[flag]
    known = ~np.isnan(marks)
    value = auroc(table.columns[metric][known], marks[known])
    return Auroc(flag=flag, flagged=int((marks == 1).sum()), metric=metric, auroc=value)


def _made(settings: CorrelateSettings, measured: _Measured) -> list[str]:
    """The names of the files of this result."""
    return [
        PER_SAMPLE,
        *([PARQUET] if settings.parquet else []),
        CORRELATIONS,
        *(GROUP_FILES[keys] for keys in measured.groups),
        *([AUROC] if measured.auroc else []),
        SCATTER,
        *([GROUPS_FIGURE] if measured.groups else []),
        *([TASKS_FIGURE] if measured.tasks else []),
        *([EVOLUTION, EVOLUTION_FIGURE] if measured.evolution else []),
        SUMMARY,
    ]


def _result(
    settings: CorrelateSettings, found: given.Found, measured: _Measured, made: list[Path]
) -> CorrelateResult:
    table = measured.table
    counts = np.bincount(measured.code + 1, minlength=len(measured.categories) + 1).tolist()
    named = dict(zip(["", *measured.categories], counts, strict=True)) if measured.categories else {}
    return CorrelateResult(
        samples=len(table.ids),
        split=table.split or None,
        how=settings.how,
        assumed_index=measured.assumed,
        dormant_epoch=max(found.dormant, default=None),
        sources=table.coverage,
        metrics=[_metric(name, table.columns[name]) for name in table.metrics],
        correlations=measured.correlations,
        categories={name: count for name, count in named.items() if count},
        medians=measured.medians,
        auroc=measured.auroc,
        tasks=measured.tasks,
        evolution=measured.evolution,
        groups={GROUP_FILES[keys]: len(found.sizes) for keys, found in measured.groups.items()},
        files=[str(path) for path in made],
        output_dir=str(settings.output_dir),
    )


def _metric(name: str, values: np.ndarray) -> Metric:
    missing, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    finite = values[np.isfinite(values)].astype(np.float64)
    median = float(np.median(finite)) if len(finite) else None
    return Metric(name, len(values) - missing, missing, infinite, median)


def _write(folder: Path, settings: CorrelateSettings, measured: _Measured, result: CorrelateResult) -> None:
    table = measured.table
    writer.per_sample(folder / PER_SAMPLE, table, measured.code, measured.categories)
    if settings.parquet:
        writer.parquet(folder / PARQUET, table, measured.code, measured.categories)
    header = [field.name for field in fields(Correlation)]
    cells = [
        (writer.safe(c.metric_a), writer.safe(c.metric_b), *astuple(c)[2:]) for c in measured.correlations
    ]
    writer.rows(folder / CORRELATIONS, header, cells)
    for keys, groups in measured.groups.items():
        seen = measured.tasks if keys == (TASK,) else []
        writer.groups(folder / GROUP_FILES[keys], groups, measured.class_names, seen)
    if measured.auroc:
        found = [(writer.safe(a.flag), a.flagged, writer.safe(a.metric), a.auroc) for a in measured.auroc]
        writer.rows(folder / AUROC, [field.name for field in fields(Auroc)], found)
    shown = {name: table.columns[name] for name in table.metrics}
    marks = table.columns[table.flags[0]] if table.flags else None
    files.atomic_write(folder / SCATTER, figures.scatter(shown, measured.correlations, marks))
    single = {keys[0]: groups for keys, groups in measured.groups.items() if len(keys) == 1}
    if single:
        files.atomic_write(folder / GROUPS_FIGURE, figures.groups(single))
    if measured.tasks:
        files.atomic_write(folder / TASKS_FIGURE, figures.tasks(measured.tasks))
    if measured.evolution:
        flag = table.flags[0] if table.flags else None
        writer.evolution(folder / EVOLUTION, measured.evolution)
        files.atomic_write(folder / EVOLUTION_FIGURE, figures.evolution(measured.evolution, flag))
    document = result.document()
    document["settings"] = {k: v for k, v in settings.as_plain().items() if v not in (None, [], False)}
    files.write_json(folder / SUMMARY, document)
