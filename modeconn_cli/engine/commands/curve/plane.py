"""`mcx curve plane`: loss and error on a plane in weight space."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.curve.plane_figure import plane_figure
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.paths import evaluate
from modeconn_cli.engine.paths.evaluate import Measurement
from modeconn_cli.engine.paths.path import WeightPath, coefficients
from modeconn_cli.engine.paths.spanned import FollowingBuffers, Made, Spanned, open_plane
from modeconn_cli.engine.paths.statistics import NetworkOnPath, StatisticsUsed
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.figures import about
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.curve import CurvePlaneSettings
from modeconn_cli.engine.settings.shared import in_every_format

MEASURED = ("tr_nll", "tr_acc", "tr_err", "te_nll", "te_acc", "te_err")
CURVE_POSITIONS = 61  # at which a curve is drawn in, as plane.py of dnn-mode-connectivity does


@dataclass(frozen=True)
class PlanePoint:
    """A network that the plane is made of, as it is; `x`, `y`: its coordinates, `off`: its distance from the plane."""

    name: str
    epoch: int | None
    x: float
    y: float
    off: float
    tr_loss: float
    tr_nll: float
    tr_err: float
    te_loss: float
    te_nll: float
    te_err: float


@dataclass(frozen=True)
class OverCells:
    """The extremes of a series over the cells that are finite, and where the least lies; None where no cell is."""

    min: float | None
    x: float | None
    y: float | None
    max: float | None


@dataclass(frozen=True, kw_only=True)
class CurvePlaneResult(Record):
    """`spans` are the lengths that α and β count; `angle` is in degrees; `shares` are those of a run's variance."""

    schema: ClassVar[str] = "mcx.curve_plane/1"

    made: Made
    grid_points: int
    spans: tuple[float, float]
    angle: float | None
    cosine: float
    shares: tuple[float, float] | None
    points: list[PlanePoint]
    statistics: dict[str, OverCells]
    nonfinite_cells: int
    bn: StatisticsUsed
    held_out: str
    wd: float
    data: dict[str, Any]
    passes: dict[str, int]
    figure: str
    arrays: str
    provenance: Provenance | None


def run(settings: CurvePlaneSettings, runtime: Runtime) -> CurvePlaneResult | None:
    """Evaluate the networks of a plane, and the plane at `grid_points` × `grid_points` cells."""
    folder = settings.output_dir
    spanned = open_plane(settings, runtime)
    opened = spanned.opened
    settings, data = opened.completed(settings), opened.subject.data
    count, side = len(spanned.names), settings.grid_points
    if runtime.plan(
        [
            f"evaluate {side} x {side} cells of a plane and {count} {'network' if count == 1 else 'networks'} on "
            f"{len(data.fit):,} training and {len(data.held_out):,} held-out images of {data.name}, batch norm: "
            f"{opened.batch_norm}",
            f"results in {folder}",
        ]
    ):
        return None
    made = (names.PLANE_ARRAYS, names.PLANE_SUMMARY, settings.named(names.PLANE_FIGURE))
    owned = (*made[:2], *in_every_format(names.PLANE_FIGURE))
    unread = settings.unread(opened.has_batch_norm)
    further = opened.files if settings.run is not None else ()
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(
            settings, folder, "curve plane", runtime, owned=owned, unread=unread, further=further
        ) as job,
    ):
        measured, statistics = measure(spanned, runtime, job.private / evaluate.LOG)
        wd = settings.wd or 0.0
        arrays = arrays_of(spanned, measured, wd)
        result = CurvePlaneResult(
            made=spanned.made,
            grid_points=side,
            spans=spanned.span.spans,
            angle=spanned.span.angle,
            cosine=spanned.cosine,
            shares=spanned.span.shares,
            points=_points(spanned, arrays),
            statistics={name: _over_cells(arrays[name], arrays["grid"]) for name in evaluate.SERIES},
            nonfinite_cells=int((~_finite(arrays)).sum()),
            bn=statistics,
            held_out="test" if data.use_test else "val",
            wd=wd,
            data=data.describe(),
            passes={"statistics": sum(each.passes for each in measured)},
            figure=str(folder / made[2]),
            arrays=str(folder / made[0]),
            provenance=job.record,
        )
        if result.nonfinite_cells:
            runtime.warn(
                f"{result.nonfinite_cells} of {side * side} cells are not finite: kept as they are, white in the figure"
            )
        if not job.complete:
            files.write_arrays(folder / made[0], arrays)
            files.write_json(folder / made[1], result.document())
            files.atomic_write(folder / made[2], plane_figure(arrays, _title(spanned), settings))
            job.finish([folder / name for name in made])
    return result


def measure(spanned: Spanned, runtime: Runtime, log: Path) -> tuple[list[Measurement], StatisticsUsed]:
    """Every place of the plane in order, kept in `log` and shared over the ranks as the positions of a path are."""
    opened = spanned.opened
    data, batch_size = opened.subject.data, opened.policy.batch_size
    network = NetworkOnPath(opened.subject.model, spanned.plane, spanned.buffers[:1], opened.policy, data.fit)
    following = FollowingBuffers(network.model, spanned)

    def at(place: float) -> Measurement:
        following.put(place)
        return evaluate.measure_at(network, data, batch_size, place)

    places = [float(number) for number in range(len(spanned.plane))]
    with contextlib.closing(network):
        found = evaluate.visit(Measurement, places, at, runtime, log, place=lambda t: {"cell": int(t) + 1})
    return found, network.statistics(0)


def arrays_of(spanned: Spanned, measured: Sequence[Measurement], wd: float) -> dict[str, np.ndarray]:
    """The content of `plane.npz`, with `wd` as the weight decay in the loss.

    Keys are those of plane.py of dnn-mode-connectivity, first axis α, and `loss`, `coordinates` as Landscaper reads
    them, where the first axis of `loss` is that of the second coordinate.
    """
    plane, span, count = spanned.plane, spanned.span, len(spanned.names)
    shape = (len(plane.xs), len(plane.ys))
    out = {
        "alphas": spanned.alphas,
        "betas": spanned.betas,
        "grid": np.stack(np.meshgrid(plane.xs, plane.ys, indexing="ij"), axis=-1),
        "bend_coordinates": span.coordinates,
    }
    if spanned.made == "curve":
        ts = np.linspace(0, 1, CURVE_POSITIONS)
        kind = spanned.opened.path.kind
        out |= {
            "ts": ts,
            "curve_coordinates": span.of_curve(np.stack([coefficients(kind, count, t) for t in ts])),
        }
    if spanned.epochs:
        out["epochs"] = np.array(spanned.epochs)
    cells, points = plane.norms(), _norms_of_points(spanned)
    for name in MEASURED:
        values = np.array([getattr(each, name) for each in measured])
        out[name], out[f"points_{name}"] = values[count:].reshape(shape), values[:count]
    for split in ("tr", "te"):
        out[f"{split}_loss"] = out[f"{split}_nll"] + 0.5 * wd * cells**2
        out[f"points_{split}_loss"] = out[f"points_{split}_nll"] + 0.5 * wd * points**2
    out |= {"l2_norm": cells, "points_l2_norm": points, "points_off_plane": span.off}
    return out | {"loss": out["tr_loss"].T.copy(), "coordinates": np.stack([plane.xs, plane.ys])}


def _norms_of_points(spanned: Spanned) -> np.ndarray:
    """‖w_k‖ [K] as `mcx curve eval` says it, bit for bit: of a curve's points, and of each network at the end of the
    line that begins at the first.
    """
    path = spanned.opened.path
    if spanned.made == "curve":
        return path.lengths(np.linspace(0, 1, len(path.points)))[1]
    lines = [WeightPath("line", path.points[[0, k]], path.layout) for k in range(len(path.points))]
    return np.array([line.lengths((0.0, 1.0))[1][1] for line in lines])


def _points(spanned: Spanned, arrays: dict[str, np.ndarray]) -> list[PlanePoint]:
    epochs: Sequence[int | None] = spanned.epochs or (None,) * len(spanned.names)
    return [
        PlanePoint(
            name,
            epochs[k],
            float(spanned.span.coordinates[k, 0]),
            float(spanned.span.coordinates[k, 1]),
            float(spanned.span.off[k]),
            **{series: float(arrays[f"points_{series}"][k]) for series in evaluate.SERIES},
        )
        for k, name in enumerate(spanned.names)
    ]


def _finite(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Whether every series of a cell is finite, [G, G]."""
    found: np.ndarray = np.all([np.isfinite(arrays[name]) for name in evaluate.SERIES], axis=0)
    return found


def _over_cells(values: np.ndarray, grid: np.ndarray) -> OverCells:
    finite = np.isfinite(values)
    if not finite.any():
        return OverCells(None, None, None, None)
    lowest = np.unravel_index(np.argmin(np.where(finite, values, np.inf)), values.shape)
    x, y = grid[lowest]
    return OverCells(float(values[lowest]), float(x), float(y), float(values[finite].max()))


def _title(spanned: Spanned) -> str:
    subject = spanned.opened.subject
    known: Sequence[int | None] = spanned.epochs or [each.epoch for each in subject.checkpoints]
    words = {
        "networks": "plane",
        "curve": "plane of a curve",
        "run": "plane of a run",
        "random directions": "random",
    }
    return f"{words[spanned.made]}: {about(subject.arch.model, subject.data.name, known)}"
