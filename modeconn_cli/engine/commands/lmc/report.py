"""`mcx lmc report`: barriers and distances of several experiments beside each other.

Reads the folders of `mcx lmc run` and the JSON files and tables of the linear mode connectivity study
(ishapira1/LinearModeConnectivity).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from modeconn_cli.engine.commands.lmc import figures, pairs
from modeconn_cli.engine.commands.lmc.pairs import MeanPair, Pair, PairResult
from modeconn_cli.engine.errors import InputError, must_exist
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.figures import about, said_beside
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.lmc import LmcReportSettings
from modeconn_cli.engine.settings.shared import in_every_format

TABLE, GRID, ACROSS = "lmc_report.csv", "lmc_report.png", "lmc_across.png"


@dataclass(frozen=True)
class Series:
    """The pairs of one data set and batch size in one folder, of all seeds of its branches."""

    name: str
    folder: str
    dataset: str
    batch_size: int | None
    original: bool
    stable_from: int | None  # of several seeds of the branches judged by the means
    pairs: tuple[PairResult, ...]
    means: tuple[MeanPair, ...] = ()  # of several seeds


@dataclass(frozen=True, kw_only=True)
class LmcReportResult(Record):
    """Barriers of the chosen definition and series stand in the figures; the CSV holds all."""

    schema: ClassVar[str] = "mcx.lmc_report/1"

    barrier: str
    which: str
    series: tuple[Series, ...]
    files: list[str]


def run(settings: LmcReportSettings, runtime: Runtime) -> LmcReportResult | None:
    """Read all pairs, and draw and write where a folder for that is given."""
    found = {
        folder: [pair for place in _branches(folder) for pair in _pairs_in(place, runtime)]
        for folder in settings.folders
    }
    for pair in (pair for pairs_there in found.values() for pair in pairs_there if not pair.finite):
        runtime.warn(f"'{pair.result.file}' holds values that are no numbers: its barriers have none")
    series = _series(found)
    folder = settings.output_dir
    count = sum(len(each.pairs) for each in series)
    if runtime.plan(
        [
            f"report {count} pairs of {len(series)} experiments",
            f"results in {folder}" if folder else "no files: pass --output-dir DIR to keep table and figures",
        ]
    ):
        return None
    drawn = [settings.named(name) for name in (GRID, ACROSS)]
    written = () if folder is None else tuple(folder / name for name in (TABLE, *drawn))
    if folder is not None:
        inputs = list(dict.fromkeys(Path(pair.file) for each in series for pair in each.pairs))
        owned = [TABLE, *(name for each in (GRID, ACROSS) for name in in_every_format(each))]
        with jobs.opened(settings, folder, "lmc report", runtime, further=inputs, owned=owned) as job:
            if not job.complete:
                _write(series, settings, folder)
                job.finish(written)
    return LmcReportResult(
        barrier=settings.barrier, which=settings.series, series=series, files=[str(path) for path in written]
    )


def _write(series: Sequence[Series], settings: LmcReportSettings, folder: Path) -> None:
    several = any(each.means for each in series)
    rows = [
        (
            {
                "series": each.name,
                "dataset": each.dataset,
                "batch_size": each.batch_size,
                **({"branch_seed": pair.branch_seed} if several else {}),
            },
            pair,
        )
        for each in series
        for pair in each.pairs
    ]
    results = {_shown(each): each.pairs for each in series}
    files.write_text(folder / TABLE, pairs.table(rows))
    barrier = f"{settings.barrier}_{settings.series}"
    title = _title(series)
    for name, draw in ((GRID, figures.report), (ACROSS, figures.across)):
        files.atomic_write(folder / settings.named(name), draw(results, barrier, title, settings))


def _shown(series: Series) -> str:
    """The name of a series in a figure, with how many seeds its means are of."""
    seeds = max((each.seeds for each in series.means), default=1)
    return series.name if seeds == 1 else f"{series.name}: mean ± sd of {seeds} branch seeds"


def _title(series: Sequence[Series]) -> str:
    """Networks, data and epochs of all experiments, as far as files and records say."""
    epochs = [pair.epoch for each in series for pair in each.pairs]
    said = [said_beside([Path(each.folder) / "_", Path(each.folder) / "_" / "_"]) for each in series]
    of = " and ".join(dict.fromkeys(a or each.dataset for a, each in zip(said, series, strict=True)))
    return f"Linear mode connectivity: {about(None, of, [min(epochs), max(epochs), None])}"


def _branches(folder: Path) -> list[Path]:
    """The folders of a run's branch seeds, where it has several; else the folder itself."""
    seeds = [path for path in folder.glob("branch*") if path.name.removeprefix("branch").isdigit()]
    return sorted(seeds, key=lambda path: int(path.name.removeprefix("branch"))) or [folder]


def _pairs_in(folder: Path, runtime: Runtime) -> list[Pair]:
    """The pairs in a folder or in its processed/, and those that the study's tables alone hold.

    Raises InputError where there are none.
    """
    hint = "pass the --output-dir of mcx lmc run"
    must_exist(folder, hint, folder=True)
    paths: list[Path] = []
    for place in (folder / "processed", folder):
        paths = paths or sorted(path for path in place.glob("*.json") if pairs.looks_like_one(path))
    empty = {path: None for path in paths if path.stat().st_size == 0}
    if empty:
        first = next(iter(empty)).name
        runtime.note(
            f"{len(empty)} of {len(paths)} pairs in '{folder}' are empty files, such as '{first}': left out"
        )
    found = [pairs.read(path) for path in paths if path not in empty]
    there = {(pair.dataset, pair.result.k1, pair.result.k2) for pair in found}
    for path in sorted([*folder.glob("*_df.csv"), *(folder / "dataframes").glob("*_df.csv")]):
        every = pairs.read_table(path)
        more = [pair for pair in every if (pair.dataset, pair.result.k1, pair.result.k2) not in there]
        if more:
            runtime.note(
                f"{len(more)} of {len(every)} pairs in '{path}' are in no file of their own: read there"
            )
        found += more
    if found:
        return found
    raise InputError(
        f"'{folder}' holds no pairs (<dataset>_batch_<B>_k1_<k1>_k2_<k2>.json, <dataset>_df.csv)", hint
    )


def _series(found: dict[Path, list[Pair]]) -> tuple[Series, ...]:
    """One series per folder, data set and batch size, named by what tells it from the others."""
    groups: dict[tuple[Path, str, int | None], list[Pair]] = {}
    for folder, pairs_there in found.items():
        for pair in pairs_there:
            groups.setdefault((folder, pair.dataset, pair.batch_size), []).append(pair)
    out = []
    alike = Counter((folder, dataset) for folder, dataset, _ in groups)
    places = Counter(dataset for _, dataset in alike)
    for (folder, dataset, batch_size), members in groups.items():
        words = [] if len(places) == 1 and len(found) > 1 else [dataset]
        if alike[folder, dataset] > 1:
            words.append("table" if batch_size is None else f"batch {batch_size}")
        if places[dataset] > 1:
            words.insert(0, folder.resolve().name)
        results = sorted(
            (pair.result for pair in members), key=lambda pair: (pair.k1, pair.k2, pair.branch_seed or 0)
        )
        several = len({(pair.k1, pair.k2) for pair in results}) < len(results)
        means = pairs.means(results) if several else []
        out.append(
            Series(
                name=" ".join(words),
                folder=str(folder),
                dataset=dataset,
                batch_size=batch_size,
                original=any(pair.original for pair in members),
                stable_from=pairs.stable_from(means or results),
                pairs=tuple(results),
                means=tuple(means),
            )
        )
    # Folders of the same name are told apart by the whole path.
    times = Counter(each.name for each in out)
    return tuple(
        replace(each, name=f"{each.folder}: {each.name}") if times[each.name] > 1 else each for each in out
    )
