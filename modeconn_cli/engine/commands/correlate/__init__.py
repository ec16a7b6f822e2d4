"""`mcx correlate`: read, join, correlate, group, draw, write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from modeconn_cli.engine.commands.correlate import (
    categories,
    class_names,
    described,
    evolution,
    figures,
    hardness,
    inputs,
    sources,
    tables,
)
from modeconn_cli.engine.commands.correlate.evolution import DormancyAt
from modeconn_cli.engine.commands.correlate.groups import (
    TaskSamples,
    by_task,
    grouped,
    with_exposures,
    with_names,
)
from modeconn_cli.engine.commands.correlate.hardness import Auroc
from modeconn_cli.engine.commands.correlate.inputs import Inputs
from modeconn_cli.engine.commands.correlate.join import CLASS, TASK, Coverage, Joined, join
from modeconn_cli.engine.commands.correlate.sources import PER_EPOCH, Source
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, jobs, parquet, records
from modeconn_cli.engine.results.columns import ID
from modeconn_cli.engine.results.figures import about, said_beside
from modeconn_cli.engine.results.listing import FILE
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.correlate import CorrelateSettings
from modeconn_cli.engine.settings.shared import SplitName, in_every_format
from modeconn_cli.engine.statistics import Correlation, correlations

PER_SAMPLE, PARQUET, SUMMARY = "per_sample.csv", "per_sample.parquet", "correlate_summary.json"
CORRELATIONS, AUROC = "correlations.csv", "auroc.csv"
GROUP_FILES = {(CLASS,): "by_class.csv", (TASK,): "by_task.csv", (CLASS, TASK): "by_class_and_task.csv"}
SCATTER, GROUPS_FIGURE, TASKS_FIGURE = "scatter.png", "groups.png", "tasks.png"
AGREEMENT, HARDEST = "agreement.csv", "hardest.csv"
SCORES_FIGURE, HARDEST_FIGURE = "scores.png", "hardest.png"
EVOLUTION, EVOLUTION_FIGURE = "evolution.csv", "evolution.png"
OWNED = (
    PER_SAMPLE, PARQUET, CORRELATIONS, AUROC, AGREEMENT, HARDEST, *GROUP_FILES.values(), EVOLUTION, SUMMARY,
    *(
        name
        for each in (SCATTER, SCORES_FIGURE, HARDEST_FIGURE, GROUPS_FIGURE, TASKS_FIGURE, EVOLUTION_FIGURE)
        for name in in_every_format(each)
    ),
)  # fmt: skip

Keys = tuple[str, ...]  # what a kind of group is made by
Writer = Callable[[Path], None]


@dataclass(frozen=True)
class Metric:
    """How many samples have a value, and how many an infinite one; NaN is a missing value."""

    name: str
    samples: int
    missing: int
    infinite: int
    median: float | None


@dataclass(frozen=True, kw_only=True)
class CorrelateResult(Record):
    """`categories`: name -> samples, those without one under an empty name; `assumed_index`: sources without ids.

    Of a table of scores, `hardest` is how many samples are the hardest by a score, `best` the score that finds the
    first flag best, or that stands first, and `advice` what the run shows of which score to use.
    """

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
    hardest: int | None
    best: str | None
    advice: list[str]
    tasks: list[TaskSamples]
    evolution: list[DormancyAt]
    groups: dict[str, int]  # file -> groups
    files: list[str]
    output_dir: str


def run(settings: CorrelateSettings, runtime: Runtime) -> CorrelateResult | None:
    """Join the sources by sample id and write what they say about each other."""
    folder = settings.output_dir
    if settings.parquet and not parquet.available():
        raise SettingsError("--parquet needs pyarrow", "pip install 'modeconn-cli[parquet]'")
    found = inputs.find(settings)
    if runtime.plan(_plan(settings, found, folder)):
        return None
    files.check_writable(folder)
    names = None if settings.class_map is None else class_names.read(settings.class_map)
    read, known = inputs.read(settings, found, runtime)
    names = names or known.names
    assumed = inputs.assumed(read, runtime)
    paths = [*_paths(settings, found, read), *known.paths]
    files.refuse_inputs([folder / name for name in OWNED], paths)
    joined = described.with_classes(join(read, settings.how), known)
    del read  # as large as what was made of it
    how: dict[str, Any] = {
        "owned": OWNED,
        "mends": True,
        "listing": jobs.listing({str(path): path for path in paths}),
    }
    with jobs.opened(settings, folder, "correlate", runtime, **how) as job:
        if (kept := job.found(CorrelateResult, folder / SUMMARY, settings)) is not None:
            there = [str(folder / Path(name).name) for name in kept.files]
            return replace(kept, output_dir=str(folder), files=there)
        title = _title(joined, found, paths)
        measured, writers = _measure(settings, found, joined, names, known.files, title, runtime)
        made = [folder / name for name in (*writers, SUMMARY)]
        result = replace(measured, assumed_index=assumed, files=[str(path) for path in made])
        if not job.complete:
            stale = set() if job.redrawn else set(OWNED) - {path.name for path in made}
            for name in stale:
                (folder / name).unlink(missing_ok=True)  # of other inputs, before they changed
            for name, write in writers.items():
                write(folder / name)
            plain = {k: v for k, v in settings.as_plain().items() if v not in (None, [], False)}
            files.write_json(folder / SUMMARY, {**result.document(), "settings": plain})
            job.finish(made)
    return result


def _title(joined: Joined, found: Inputs, paths: Sequence[Path]) -> str:
    """How many samples, and the network, the data and the epochs, as far as the sources say."""
    said = said_beside(paths) or joined.split or ""
    epochs = [*found.dormant, None] if found.dormant else []
    return f"{len(joined.table):,} samples: {about(None, said, epochs)}".removesuffix(": ")


def _plan(settings: CorrelateSettings, found: Inputs, folder: Path) -> list[str]:
    paths = (
        settings.tracking,
        found.csl,
        found.lt,
        settings.scores,
        settings.curvature,
        settings.dormant,
        settings.memo,
    )
    named = [str(path) for path in (*paths, *settings.with_files, settings.flags) if path is not None]
    return [f"join {', '.join(named)}", f"results in {folder}"]


def _paths(settings: CorrelateSettings, found: Inputs, read: Sequence[Source]) -> list[Path]:
    """Every file that the result depends on."""
    paths = [path for source in read for path in source.files] + list(found.dormant.values())
    if settings.class_map is not None:
        paths.append(settings.class_map)
    return list(dict.fromkeys(paths))


def _measure(
    settings: CorrelateSettings,
    found: Inputs,
    joined: Joined,
    names: Mapping[int, str] | None,
    of_files: pd.Series | None,
    title: str,
    runtime: Runtime,
) -> tuple[CorrelateResult, dict[str, Writer]]:
    """What is said of the samples, and what writes each file of it but the summary, in their order."""
    table = joined.table
    metrics = [_metric(table[name]) for name in joined.metrics]
    for metric in metrics:
        if metric.infinite:
            runtime.warn(
                f"{metric.name}: {metric.infinite:,} infinite values, not in correlations, means and medians"
            )
    category, medians = categories.split(table[joined.metrics])
    counts = {"": int(category.isna().sum()), **category.value_counts(sort=False)} if medians else {}
    if PER_EPOCH in table:
        runtime.note(
            "samples were scored at different numbers of epochs: csl_per_epoch tells high from low csl"
        )
    groups = _groups(settings.by, joined, runtime)
    if names is not None:
        if settings.class_map is not None:
            _compare_names(names, table.get(CLASS), runtime)
        groups = {keys: with_names(group, names) for keys, group in groups.items()}
    tasks = by_task(table, joined.metrics) if (TASK,) in groups else []
    several = found.dormant if len(found.dormant) > 1 else {}
    flag, task = next(iter(joined.flags), None), TASK if tasks else None
    found_flags = hardness.finding(table, joined.flags, joined.metrics, joined.ends)
    ranked = settings.scores is not None
    best = hardness.best_of(found_flags, joined.metrics, joined.ends) if ranked else None
    result = CorrelateResult(
        samples=len(table),
        split=joined.split or None,
        how=settings.how,
        assumed_index=[],
        dormant_epoch=max(found.dormant, default=None),
        sources=joined.coverage,
        metrics=metrics,
        correlations=correlations({name: table[name].to_numpy() for name in joined.metrics}),
        categories={name: int(count) for name, count in counts.items() if count},
        medians=medians,
        auroc=found_flags,
        hardest=_count(settings, table, flag) if ranked else None,
        best=best,
        advice=hardness.advice(table, found_flags, best, joined.metrics) if ranked else [],
        tasks=tasks,
        evolution=evolution.follow(several, settings.assume_index, table, flag, task),
        groups={GROUP_FILES[keys]: len(group) for keys, group in groups.items()},
        files=[],
        output_dir=str(settings.output_dir),
    )
    samples = tables.per_sample(joined, category, of_files)
    writers = _writers(settings, joined, samples, groups, result, title)
    if result.hardest is not None:
        writers |= _of_hardest(settings, joined, of_files, result, title, runtime)
    return result, writers


def _count(settings: CorrelateSettings, table: pd.DataFrame, flag: str | None) -> int:
    """How many samples are the hardest by a score."""
    flagged = 0 if flag is None else int((table[flag] == 1).sum())
    asked = settings.hardest or flagged or max(10, len(table) // 100)
    return min(asked, len(table))


def _of_hardest(
    settings: CorrelateSettings,
    joined: Joined,
    of_files: pd.Series | None,
    result: CorrelateResult,
    title: str,
    runtime: Runtime,
) -> dict[str, Writer]:
    """What writes the files that scores have and other metrics have not."""
    table, metrics, ends, best = joined.table, joined.metrics, joined.ends, result.best
    assert result.hardest is not None, "there are scores"
    shares = hardness.agreement(table, metrics, ends, result.hardest)
    ranks = hardness.oriented(result.correlations, metrics, ends)
    square = pd.DataFrame(shares, columns=metrics)
    square.insert(0, "metric", metrics)
    drawn = figures.scores(metrics, ranks, shares, result.hardest, title, settings)
    writers: dict[str, Writer] = {
        AGREEMENT: lambda path: tables.write_small(path, square),
        settings.named(SCORES_FIGURE): lambda path: files.atomic_write(path, drawn),
    }
    if best is None:
        return writers
    listed = hardness.listed(table, best, ends, joined.flags, result.hardest)
    if of_files is not None:
        listed.insert(2, FILE, of_files.reindex(listed[ID]).to_numpy())
    writers[HARDEST] = lambda path: tables.write_small(path, listed)
    writers[settings.named(HARDEST_FIGURE)] = lambda path: files.atomic_write(
        path, _pictured(settings, joined, listed, best, title, runtime)
    )
    return writers


def _pictured(
    settings: CorrelateSettings, joined: Joined, listed: pd.DataFrame, best: str, title: str, runtime: Runtime
) -> bytes:
    """The hardest samples by the best score, with their images where the data are there."""
    from modeconn_cli.engine.samples import pictures  # the images alone need torch

    assert settings.scores is not None, "there are scores"
    said = records.read_object(sources.said_of(settings.scores))
    images: Any = said.get("images") if isinstance(said.get("images"), dict) else {}
    known = images.get("said")
    pictured = pictures.Pictured.of(
        known if isinstance(known, dict) else {}, images.get("scored"), settings.dataset, settings.data_path
    )
    ids = listed[ID].to_numpy()[: settings.num_samples]
    split: SplitName = "test" if said.get("split") == "test" else "all-train"
    found = pictures.images_of(pictured, split, ids, runtime, joined.table.get(CLASS))
    every, score = joined.table.index.to_numpy(), ("", joined.table[best].to_numpy(np.float64))
    chosen = {"hardest": np.searchsorted(every, ids)}
    return pictures.gallery(every, chosen, score, found, {}, f"Hardest by {best} of {title}", settings)


def _metric(values: pd.Series) -> Metric:
    finite = values[np.isfinite(values)].to_numpy(np.float64)
    return Metric(
        name=str(values.name),
        samples=int(values.notna().sum()),
        missing=int(values.isna().sum()),
        infinite=int(np.isinf(values).sum()),
        median=float(np.median(finite)) if len(finite) else None,
    )


def _groups(by: Collection[str], joined: Joined, runtime: Runtime) -> dict[Keys, pd.DataFrame]:
    """A row per group of samples, for every file of groups that is asked for and that the sources allow."""
    groups = {}
    for keys, file in GROUP_FILES.items():
        if not set(keys) <= set(by):
            continue
        if set(keys) <= set(joined.table):
            groups[keys] = grouped(joined.table, keys, joined.metrics)
        elif len(keys) == 1:
            runtime.note(f"no source says {keys[0]}: no {file}")
    return groups


def _compare_names(names: Mapping[int, str], classes: pd.Series | None, runtime: Runtime) -> None:
    present = set() if classes is None else set(classes.dropna().astype(int))
    unknown, unnamed = len(set(names) - present), len(present - set(names))
    if unknown:
        runtime.note(f"{unknown:,} classes of --class-map have no sample")
    if unnamed:
        runtime.note(f"{unnamed:,} classes have no name in --class-map")


def _writers(
    settings: CorrelateSettings,
    joined: Joined,
    samples: pd.DataFrame,
    groups: Mapping[Keys, pd.DataFrame],
    result: CorrelateResult,
    title: str,
) -> dict[str, Writer]:
    def table(content: pd.DataFrame) -> Writer:
        return lambda path: tables.write_small(path, content)

    def figure(name: str, draw: Callable[..., bytes], *content: object) -> None:
        writers[settings.named(name)] = lambda path: files.atomic_write(path, draw(*content, title, settings))

    flag = next(iter(joined.flags), None)
    writers: dict[str, Writer] = {PER_SAMPLE: lambda path: tables.write_csv(path, samples, joined)}
    if settings.parquet:
        writers[PARQUET] = lambda path: tables.write_parquet(path, samples, joined)
    writers[CORRELATIONS] = table(pd.DataFrame(result.correlations, columns=[*Correlation.__annotations__]))
    for keys, group in groups.items():
        seen = result.tasks if keys == (TASK,) else []
        writers[GROUP_FILES[keys]] = table(with_exposures(group, seen) if seen else group)
    if result.auroc:
        writers[AUROC] = table(pd.DataFrame(result.auroc))
    marks = None if flag is None else joined.table[flag]
    figure(SCATTER, figures.scatter, joined.table[joined.metrics], result.correlations, marks)
    single = {keys[0]: group for keys, group in groups.items() if len(keys) == 1}
    if single:
        negative = [name for name in joined.metrics if (joined.table[name] < 0).any()]
        figure(GROUPS_FIGURE, figures.groups, single, joined.metrics, negative)
    if result.tasks:
        figure(TASKS_FIGURE, figures.tasks, result.tasks)
    if result.evolution:
        epochs = evolution.table(result.evolution)
        writers[EVOLUTION] = table(epochs)
        figure(EVOLUTION_FIGURE, figures.evolution, epochs, flag)
    return writers
