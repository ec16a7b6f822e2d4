"""The summary of several pairs: a row each, the matrices of all pairs, and the trajectory of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine.commands.l2 import figures, trajectory
from modeconn_cli.engine.commands.l2.chosen import Chosen, Pair
from modeconn_cli.engine.commands.l2.measure import Measurements
from modeconn_cli.engine.commands.l2.network import Network
from modeconn_cli.engine.commands.l2.pair import L2Result
from modeconn_cli.engine.commands.l2.trajectory import Waypoint
from modeconn_cli.engine.commands.l2.weight_space import Networks
from modeconn_cli.engine.errors import InputError, OutputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.figures import about
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.l2 import L2Settings
from modeconn_cli.engine.settings.shared import in_every_format

TEXT, CSV = "summary.txt", "summary.csv"
MATRIX, HEAT_MAP = "matrix.npz", "heatmap.png"
TRAJECTORY_CSV, TRAJECTORY_FIGURE = "trajectory.csv", "trajectory.png"
OWNED = (
    TEXT, CSV, MATRIX, TRAJECTORY_CSV, *in_every_format(HEAT_MAP), *in_every_format(TRAJECTORY_FIGURE),
)  # fmt: skip
MARK = "folder.json"  # says that the summaries are the command's own
DIRECTED = ("relative", "kl", "kl_stderr")
DOCUMENTED = ("pair", "total_l2", "normalized_l2", "relative", "total_params")
FURTHER = {
    "cosine": ("cosine_distance",),
    "fisher": ("fisher_distance", "fisher_distance_stderr"),
    "functional": (
        *("disagreement", "disagreement_stderr", "kl", "kl_stderr"),
        *("logit_distance", "logit_distance_stderr"),
    ),
}
DRAWN = {
    "total_l2": "L2 distance",
    "cosine_distance": "cosine distance",
    "fisher_distance": "Fisher distance",
    "disagreement": "share of different answers",
}


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One pair. Figures are None where they were not asked for or could not be measured, and `status` says why."""

    pair: str
    total_l2: float | None = None
    normalized_l2: float | None = None
    relative: float | None = None
    total_params: int | None = None
    status: str
    cosine_distance: float | None = None
    fisher_distance: float | None = None
    fisher_distance_stderr: float | None = None
    disagreement: float | None = None
    disagreement_stderr: float | None = None
    kl: float | None = None
    kl_stderr: float | None = None
    logit_distance: float | None = None
    logit_distance_stderr: float | None = None
    modulo_permutation: float | None = None  # total L2 with units permuted
    left_out: int | None = None  # tensors that --common did not compare


@dataclass(frozen=True, kw_only=True)
class L2ManyResult(Record):
    """Several pairs. `columns` are those of the summary, `data` says by metric what the samples were."""

    schema: ClassVar[str] = "mcx.l2_many/1"

    checkpoints: dict[str, str]
    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    pairs: tuple[SummaryRow, ...]
    trajectory: tuple[Waypoint, ...] | None
    include_buffers: bool
    data: Mapping[str, Mapping[str, Any]]
    output_dir: str | None


def several(
    chosen: Chosen, networks: Networks, found: Measurements, settings: L2Settings, runtime: Runtime
) -> L2ManyResult:
    """What was found of all pairs, with what makes it suspicious said."""
    further = [name for metric, names in FURTHER.items() if metric in settings.metric for name in names]
    permuted = ["modulo_permutation"] if settings.permuted else []
    permuted += ["left_out"] if settings.common else []
    waypoints = None
    if chosen.epochs is not None:
        broken = [label for label, network in networks.items() if isinstance(network, InputError)]
        waypoints = trajectory.waypoints(list(chosen.paths), chosen.epochs, found.beside, broken)
    rows = tuple(_row(pair, found.pairs[pair]) for pair in chosen.pairs)
    say_same(rows, runtime)
    return L2ManyResult(
        checkpoints={label: tilde(path) for label, path in chosen.paths.items()},
        metrics=settings.metric,
        columns=(*DOCUMENTED, *further, *permuted, "status"),
        pairs=rows,
        trajectory=waypoints,
        include_buffers=settings.include_buffers,
        data=found.data,
        output_dir=None if settings.output_dir is None else tilde(settings.output_dir),
    )


def say_same(rows: Sequence[SummaryRow], runtime: Runtime) -> None:
    same = [row.pair for row in rows if row.total_l2 == 0]
    if same:
        runtime.warn(f"{len(same)} pairs hold the same weights: {', '.join(same[:5])}")


def made(folder: Path) -> list[Path]:
    """The summaries and figures that are there."""
    return [folder / name for name in OWNED if (folder / name).exists()]


def _row(pair: Pair, result: L2Result | InputError) -> SummaryRow:
    name = "-".join(pair)
    if isinstance(result, InputError):
        return SummaryRow(pair=name, status=result.message)
    distance, undone = result.distance, result.permuted
    return SummaryRow(
        pair=name,
        total_l2=distance.total_l2,
        normalized_l2=distance.normalized_total_l2,
        relative=distance.relative_total,
        total_params=distance.total_params,
        status="ok" if result.problem is None else result.problem.message,
        cosine_distance=distance.cosine_distance,
        fisher_distance=distance.fisher_distance,
        fisher_distance_stderr=distance.fisher_distance_stderr,
        modulo_permutation=None if undone is None else undone.distance.total_l2,
        left_out=None if result.left_out is None else result.left_out.count,
        **{column: getattr(result.functional, column, None) for column in FURTHER["functional"]},
    )


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises OutputError for a folder that cannot be written, and for summaries that mcx l2 has not made."""
    files.check_writable(folder)
    present = next((folder / name for name in OWNED if files.occupied(folder / name)), None)
    if present is not None and not overwrite and not (jobs.private_folder(folder, "l2") / MARK).exists():
        raise OutputError(f"'{present}' exists", "use --overwrite to replace it")


def write(folder: Path, whole: L2ManyResult, networks: Networks, settings: L2Settings) -> None:
    """The figures and tables of all pairs, the summary last; the mark says that they are the command's own."""
    private = jobs.private_folder(folder, "l2")
    files.make_folder(private)
    files.write_json(private / MARK, {"schema": "mcx.l2_folder/1"})
    title = f"Distances: {_about(networks)}"
    if settings.pairs == "all":
        labels, matrices = list(whole.checkpoints), _matrices(whole)
        drawn = {title: matrices[name] for name, title in DRAWN.items() if name in matrices}
        files.write_arrays(folder / MATRIX, {"labels": np.array(labels), **matrices})
        picture = figures.heat_map(labels, drawn, title, settings)
        files.atomic_write(folder / settings.named(HEAT_MAP), picture)
    if whole.trajectory is not None:
        header = [field.name for field in fields(Waypoint)]
        files.write_text(folder / TRAJECTORY_CSV, files.csv_text(header, map(astuple, whole.trajectory)))
        picture = figures.trajectory(whole.trajectory, f"Way of {_about(networks)}", settings)
        files.atomic_write(folder / settings.named(TRAJECTORY_FIGURE), picture)
    rows = [[getattr(row, name) for name in whole.columns] for row in whole.pairs]
    files.write_text(folder / TEXT, _text(whole.columns, rows))
    files.write_text(folder / CSV, files.csv_text(whole.columns, rows))


def _about(networks: Networks) -> str:
    """Network, data and epochs, as far as the checkpoints say; how many there are where they say nothing."""
    read = [each.checkpoint for each in networks.values() if isinstance(each, Network)]
    epochs = [*(each.epoch for each in read), None]
    said = next((each.about for each in read if each.about.model), About())
    dataset = None if said.data is None else said.data.dataset
    return about(said.model, dataset, epochs) or f"{len(networks)} networks"


def _matrices(whole: L2ManyResult) -> dict[str, np.ndarray]:
    """Every figure of the summary as [K, K], 0 on the diagonal, NaN where a pair could not be measured.

    Row i, column j is the pair (i, j). What goes from the first of a pair to the second stands above the diagonal
    alone, with NaN below it.
    """
    count = len(whole.checkpoints)
    upper = np.triu_indices(count, 1)  # in the order of the pairs
    out = {}
    for name in whole.columns:
        if name in ("pair", "total_params", "left_out", "status"):
            continue
        values = np.zeros((count, count))
        values[upper] = np.array([getattr(row, name) for row in whole.pairs], dtype=float)  # None: NaN
        values.T[upper] = np.nan if name in DIRECTED else values[upper]
        out[name] = values
    return out


def _text(columns: tuple[str, ...], rows: list[list[Any]]) -> str:
    """The comparison table of the documents: a line per pair in input order, full precision in the CSV."""

    def cell(name: str, value: object) -> str:
        if value is None:
            return "n/a"
        if isinstance(value, float):
            return f"{100 * value:.4f}%" if name.startswith(("relative", "disagreement")) else f"{value:.6f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    cells = [list(columns), *([cell(*each) for each in zip(columns, row, strict=True)] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    flush = ["<", *[">"] * (len(columns) - 2), "<"]  # the pair and its status to the left
    lines = [
        "  ".join(f"{value:{side}{width}}" for value, side, width in zip(row, flush, widths, strict=True))
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def check_measured(whole: L2ManyResult, networks: Networks, settings: L2Settings) -> None:
    """Raises InputError, with the summary, where a pair could not be measured."""
    failed = [row.status for row in whole.pairs if row.status != "ok"]
    if not failed:
        return
    first = networks[next(iter(whole.checkpoints))]
    unread = [network for network in networks.values() if isinstance(network, InputError)]
    if settings.pairs == "first" and first in unread and len(whole.checkpoints) > 2:
        hint = "the first checkpoint is in every pair: --pairs all measures the others"
    else:
        hint = unread[0].hint if unread else ""
    raise InputError(
        f"{len(failed)} of {len(whole.pairs)} pairs could not be measured: {failed[0]}",
        hint,
        result=whole,
    )
