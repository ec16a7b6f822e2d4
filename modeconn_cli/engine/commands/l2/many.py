"""`mcx l2` of several checkpoints: each file is read once; a broken one spoils its own pairs only."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from modeconn_cli.engine.commands.l2 import L2Result, figures, inputs, provenance, trajectory
from modeconn_cli.engine.commands.l2.inputs import Given, Network
from modeconn_cli.engine.commands.l2.measures import Apart, Measures, measure
from modeconn_cli.engine.commands.l2.pairs import Pair
from modeconn_cli.engine.commands.l2.trajectory import Position
from modeconn_cli.engine.errors import InputError, OutputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.l2 import L2Settings

SUMMARY_TEXT, SUMMARY_CSV = "summary.txt", "summary.csv"
MATRIX, HEAT_MAP = "matrix.npz", "heatmap.png"
TRAJECTORY_CSV, TRAJECTORY_FIGURE = "trajectory.csv", "trajectory.png"
OWNED = (SUMMARY_TEXT, SUMMARY_CSV, MATRIX, HEAT_MAP, TRAJECTORY_CSV, TRAJECTORY_FIGURE)
MARK = "folder.json"  # says that the summaries are the command's own
DIRECTED = ("relative", "kl")
DOCUMENTED = ("pair", "total_l2", "normalized_l2", "relative", "total_params")
FURTHER = {
    "cosine": ("cosine_distance",),
    "fisher": ("fisher_distance",),
    "functional": ("disagreement", "kl", "logit_distance"),
}


@dataclass(frozen=True)
class PairDistance:
    """One row of the summary; figures are None where they were not asked for or a file could not be used, and
    `status` says why.
    """

    pair: str
    total_l2: float | None
    normalized_l2: float | None
    relative: float | None
    total_params: int | None
    status: str
    cosine_distance: float | None = None
    fisher_distance: float | None = None
    disagreement: float | None = None
    kl: float | None = None
    logit_distance: float | None = None
    modulo_permutation: float | None = None  # total L2 with the swap undone


@dataclass(frozen=True, kw_only=True)
class L2ManyResult(Record):
    schema: ClassVar[str] = "mcx.l2_many/1"

    checkpoints: dict[str, str]
    metrics: tuple[str, ...]
    columns: tuple[str, ...]  # of the summary
    pairs: tuple[PairDistance, ...]
    trajectory: tuple[Position, ...] | None
    include_buffers: bool
    data: Mapping[str, Mapping[str, object]]
    output_dir: str | None


def run(settings: L2Settings, runtime: Runtime) -> L2ManyResult | None:
    """Measure the first checkpoint against all others, or all pairs. Raises InputError if a file failed."""
    if settings.output is not None:
        raise SettingsError("--output is for one pair", "use --output-dir for several")
    if settings.output_dir is None:
        settings.refuse("on several checkpoints without --output-dir", "show_top_k", "sort_by")
    given = inputs.given(settings, runtime)
    labels = list(given.paths)
    if given.epochs is None and any(word.is_dir() for word in settings.checkpoints):
        runtime.note("a trajectory is of one run: name its folder alone")
    wanted = list(itertools.combinations(labels, 2))
    if settings.pairs == "first":
        wanted = wanted[: len(labels) - 1]
    if runtime.dry_run:
        runtime.plan([f"measure {len(wanted)} distances between {len(labels)} checkpoints"])
        return None
    _check_names(wanted)
    if settings.output_dir is not None:
        _check_folder(settings.output_dir, settings.overwrite)
    networks = _read(given, settings, runtime)
    due = _due(wanted, networks, settings)
    way = trajectory.pairs(labels) if given.epochs is not None else []
    found = measure(networks, wanted, settings, runtime, way)
    rows = tuple(_row(pair, found.apart[pair]) for pair in wanted)
    whole = L2ManyResult(
        checkpoints={label: tilde(path) for label, path in given.paths.items()},
        metrics=settings.metric,
        columns=_columns(settings),
        pairs=rows,
        trajectory=_trajectory(given, networks, found),
        include_buffers=settings.include_buffers,
        data=found.data,
        output_dir=None if settings.output_dir is None else tilde(settings.output_dir),
    )
    _remark(rows, runtime)
    if settings.output_dir is not None:
        for network in networks.values():
            if isinstance(network, Network):
                network.check_unchanged()
        _write(settings.output_dir, settings, labels, networks, found, due, whole)
        if not due and any(row.status == "ok" for row in rows):
            runtime.note(f"already complete: {settings.output_dir}")
    failed = [row.status for row in rows if row.status != "ok"]
    if failed:
        count = f"{len(failed)} of {len(rows)} pairs could not be measured"
        first_is_broken = settings.pairs == "first" and isinstance(networks[labels[0]], InputError)
        hint = (
            "the first checkpoint is in every pair: --pairs all measures the others"
            if first_is_broken
            else ""
        )
        raise InputError(f"{count}: {failed[0]}", hint, result=whole)
    return whole


def _check_names(wanted: Sequence[Pair]) -> None:
    """Raises SettingsError where two pairs would have one name."""
    names_ = ["-".join(pair) for pair in wanted]
    twice = next((name for name in names_ if names_.count(name) > 1), None)
    if twice is not None:
        raise SettingsError(f"two pairs are called '{twice}'", "label the checkpoints otherwise: label=path")


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Raises OutputError for a folder that cannot be written, and for summaries that mcx l2 has not made."""
    files.check_writable(folder)
    present = next((folder / name for name in OWNED if files.occupied(folder / name)), None)
    if present is not None and not overwrite and not (jobs.private_folder(folder, "l2") / MARK).exists():
        raise OutputError(f"'{present}' exists", "use --overwrite to replace it")


def _due(
    wanted: Sequence[Pair], networks: Mapping[str, Network | InputError], settings: L2Settings
) -> set[Pair]:
    """The pairs whose file is still to be written. Raises OutputError for a file of another origin."""
    folder = settings.output_dir
    out: set[Pair] = set()
    for pair in wanted if folder is not None else ():
        first, second = (networks[label] for label in pair)
        if isinstance(first, Network) and isinstance(second, Network):
            try:
                made = provenance(settings, (first, second))
            except InputError:  # of its swap; its row will say so
                continue
            if jobs.file_output(_file(folder, pair), made, settings):
                out.add(pair)
    return out


def _file(folder: Path | None, pair: Pair) -> Path:
    assert folder is not None
    return folder / f"{'-'.join(pair)}.json"


def _trajectory(
    given: Given, networks: Mapping[str, Network | InputError], found: Measures
) -> tuple[Position, ...] | None:
    if given.epochs is None:
        return None
    broken = [label for label, network in networks.items() if isinstance(network, InputError)]
    return trajectory.positions(list(given.paths), given.epochs, found.beside, broken)


def _remark(rows: Sequence[PairDistance], runtime: Runtime) -> None:
    same = [row.pair for row in rows if row.total_l2 == 0]
    if same:
        runtime.warn(f"{len(same)} pairs hold the same weights: {', '.join(same[:5])}")


def _read(given: Given, settings: L2Settings, runtime: Runtime) -> dict[str, Network | InputError]:
    networks: dict[str, Network | InputError] = {}
    for done, (label, path) in enumerate(given.paths.items(), start=1):
        try:
            networks[label] = inputs.read(label, path, settings, runtime)
        except InputError as error:
            networks[label] = error
        runtime.progress(done, len(given.paths), "checkpoint", checkpoint=label)
    return networks


def _columns(settings: L2Settings) -> tuple[str, ...]:
    further = [
        column for metric, columns in FURTHER.items() if metric in settings.metric for column in columns
    ]
    permuted = ["modulo_permutation"] if settings.modulo_permutation else []
    return (*DOCUMENTED, *further, *permuted, "status")


def _row(pair: Pair, apart: Apart | InputError) -> PairDistance:
    name = "-".join(pair)
    if isinstance(apart, InputError):
        return PairDistance(name, None, None, None, None, apart.message)
    d, f, undone = apart.distance, apart.functional, apart.permuted
    status = "ok" if apart.problem is None else apart.problem.message
    return PairDistance(
        name, d.total_l2, d.normalized_total_l2, d.relative_total, d.total_params, status,
        cosine_distance=d.cosine_distance,
        fisher_distance=d.fisher_distance,
        **({} if f is None else {column: getattr(f, column) for column in FURTHER["functional"]}),
        modulo_permutation=None if undone is None else undone.distance.total_l2,
    )  # fmt: skip


def _write(
    folder: Path,
    settings: L2Settings,
    labels: Sequence[str],
    networks: Mapping[str, Network | InputError],
    found: Measures,
    due: set[Pair],
    whole: L2ManyResult,
) -> None:
    """One JSON file per pair, and the summaries last. Pairs that the same command made stay as they are."""
    private = jobs.private_folder(folder, "l2")
    files.make_folder(private)
    files.write_json(private / MARK, {"schema": "mcx.l2_folder/1"})
    for pair in found.apart:
        apart, first, second = found.apart[pair], *(networks[label] for label in pair)
        if pair in due and isinstance(apart, Apart) and apart.problem is None:
            assert isinstance(first, Network)
            assert isinstance(second, Network)
            result = L2Result(apart=apart, settings=settings, networks=(first, second), data=found.data)
            files.write_json(_file(folder, pair), result.document())
    if settings.pairs == "all":
        matrices = _matrices(labels, whole)
        files.write_arrays(folder / MATRIX, {"labels": np.array(labels), **matrices})
        files.atomic_write(folder / HEAT_MAP, figures.heat_map(labels, _drawn(matrices)))
    if whole.trajectory is not None:
        files.write_text(folder / TRAJECTORY_CSV, trajectory.table(whole.trajectory))
        files.atomic_write(folder / TRAJECTORY_FIGURE, figures.trajectory(whole.trajectory))
    files.write_text(folder / SUMMARY_TEXT, summary_text(whole))
    files.write_text(
        folder / SUMMARY_CSV,
        files.csv_text(
            whole.columns, ([getattr(row, name) for name in whole.columns] for row in whole.pairs)
        ),
    )


def _matrices(labels: Sequence[str], whole: L2ManyResult) -> dict[str, np.ndarray]:
    """Every figure of the summary as [K, K], 0 on the diagonal, NaN where a pair could not be measured.

    Row i, column j is the pair (i, j). What goes from the first of a pair to the second stands above the diagonal
    alone, with NaN below it.
    """
    place = {label: k for k, label in enumerate(labels)}
    out = {}
    for name in whole.columns:
        if name in ("pair", "total_params", "status"):
            continue
        values = np.zeros((len(labels), len(labels)))
        for (first, second), row in zip(itertools.combinations(labels, 2), whole.pairs, strict=True):
            value = getattr(row, name)
            i, j = place[first], place[second]
            values[i, j] = np.nan if value is None else value
            values[j, i] = np.nan if name in DIRECTED else values[i, j]
        out[name] = values
    return out


def _drawn(matrices: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The panels of the heat map: one per metric."""
    titles = {
        "total_l2": "L2 distance", "cosine_distance": "cosine distance", "fisher_distance": "Fisher distance",
        "disagreement": "share of different answers",
    }  # fmt: skip
    return {title: matrices[name] for name, title in titles.items() if name in matrices}


def summary_text(whole: L2ManyResult) -> str:
    """The comparison table of the documents: a line per pair in input order, full precision in the CSV."""

    def cell(name: str, value: object) -> str:
        if value is None:
            return "n/a"
        if isinstance(value, float):
            return f"{100 * value:.4f}%" if name in ("relative", "disagreement") else f"{value:.6f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    rows = [[cell(name, getattr(row, name)) for name in whole.columns] for row in whole.pairs]
    cells = [list(whole.columns), *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(whole.columns))]
    text = (0, len(widths) - 1)
    lines = [
        "  ".join(
            value.ljust(width) if i in text else value.rjust(width)
            for i, (value, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines) + "\n"
