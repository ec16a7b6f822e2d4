"""`mcx lmc interpolate`: the straight line between any two checkpoints, by all barrier definitions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine import symmetry
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import graph
from modeconn_cli.engine.paths import evaluate as along
from modeconn_cli.engine.paths import figures, line
from modeconn_cli.engine.paths import statistics as positions
from modeconn_cli.engine.paths.statistics import Positioned, Source
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.lmc import LmcInterpolateSettings
from modeconn_cli.engine.symmetry import files as permutations

ARRAYS, SUMMARY, FIGURE = "line.npz", "line_summary.json", "line.png"


@dataclass(frozen=True, kw_only=True)
class LmcInterpolateResult(Record):
    """Losses in nats, errors in percent; `barriers`: definition -> series -> barrier.

    `distance` is between the networks as they were interpolated; `distance_unpermuted` between the files, None
    without a permutation.
    """

    schema: ClassVar[str] = "mcx.lmc_interpolate/1"

    first: str
    second: str
    permutation: str | None
    alphas: list[float]
    losses_train: list[float]
    accuracy_lst_train: list[float]
    losses_test: list[float]
    accuracy_lst_test: list[float]
    distance: float
    distance_unpermuted: float | None
    statistics: dict[str, dict[str, float]]
    barriers: dict[str, dict[str, float | None]]
    bn: dict[str, Any]
    held_out: str
    files: list[str]


def run(settings: LmcInterpolateSettings, runtime: Runtime) -> LmcInterpolateResult | None:
    """Evaluate the line from the first checkpoint (α = 0) to the second (α = 1)."""
    first, last = settings.ends
    at = line.alphas(settings.num_alphas)
    settings = replace(settings, checkpoints=(), endpoint0=first, endpoint1=last)
    files_given = positions.open_path(settings, runtime)
    source = files_given if settings.permutation is None else _rebased(files_given, settings.permutation)
    data = source.data
    folder = settings.output_dir
    if runtime.plan(
        [
            f"evaluate {len(at)} positions on {len(data.fit) + len(data.held_out):,} images of {data.name}, batch "
            f"norm: {settings.bn if source.has_batch_norm else 'none in the network'}",
            f"results in {folder}" if folder else "no files: pass --output-dir DIR to keep the results",
        ]
    ):
        return None
    positioned = Positioned(source, settings, data.fit)
    apart = None if source is files_given else along.endpoint_distance(files_given.path)

    def measured(job: jobs.Job | None) -> tuple[dict[str, np.ndarray], LmcInterpolateResult]:
        rows = along.complete(positioned, data, at, settings.batch_size, runtime, job)
        arrays = along.arrays(np.array(at), rows, source.path, float(source.subject.about.wd or 0.0))
        held_out = "test" if data.use_test else "val"
        distances = (along.endpoint_distance(source.path), apart)
        return arrays, _result(settings, line.Line.of(rows), arrays["dl"], positioned, distances, held_out)

    if folder is None:
        with runtime.catching_signals():
            return measured(None)[1]
    unread = settings.unread(source.has_batch_norm)
    owned = (ARRAYS, SUMMARY, FIGURE)
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(
            settings, folder, "lmc interpolate", runtime, inputs=source.inputs, owned=owned, unread=unread
        ) as job,
    ):
        arrays, result = measured(job)
        if not job.complete:
            lists = {name: np.array(getattr(result, name)) for name in ("alphas", *line.LISTS)}
            files.write_arrays(folder / ARRAYS, {**arrays, **lists})
            files.write_json(folder / SUMMARY, result.document())
            files.atomic_write(folder / FIGURE, _draw(result, arrays))
            job.finish([folder / name for name in owned])
    return result


def _draw(result: LmcInterpolateResult, arrays: dict[str, np.ndarray]) -> bytes:
    ends = [Path(end).stem for end in (result.first, result.second)]
    if ends[0] == ends[1]:
        ends = [f"{Path(end).parent.name}/{Path(end).stem}" for end in (result.first, result.second)]
    label = f"α (0: {ends[0]}, 1: {ends[1]})"
    return figures.along_path({"line": arrays}, shade=True, axis_label=label)


def _rebased(source: Source, permutation: Path) -> Source:
    """The line to the second network with its units permuted: weights and statistics of batch norm."""
    found = symmetry.find(graph.trace(source.model, source.subject.arch.input_shape))
    orders = permutations.rebasing(permutation, found)
    layout = source.path.layout
    moved = symmetry.permute({**layout.views(source.path.points[1]), **source.buffers[1]}, found, orders)
    points = source.path.points.clone()
    layout.flatten(moved, points[1])
    buffers = {name: moved[name] for name in source.buffers[1]}
    return replace(
        source,
        path=replace(source.path, points=points),
        buffers=(source.buffers[0], buffers),
        inputs=(*source.inputs, permutation),
    )


def _result(
    settings: LmcInterpolateSettings,
    found: line.Line,
    steps: np.ndarray,
    positioned: Positioned,
    distances: tuple[float, float | None],
    held_out: str,
) -> LmcInterpolateResult:
    first, last = settings.ends
    folder = settings.output_dir
    return LmcInterpolateResult(
        first=tilde(first),
        second=tilde(last),
        permutation=None if settings.permutation is None else tilde(settings.permutation),
        alphas=found.alphas,
        losses_train=found.losses_train,
        accuracy_lst_train=found.accuracy_lst_train,
        losses_test=found.losses_test,
        accuracy_lst_test=found.accuracy_lst_test,
        distance=distances[0],
        distance_unpermuted=distances[1],
        statistics={name: along.statistics(values, steps) for name, values in found.series().items()},
        barriers=found.barriers(),
        bn=positioned.describe(),
        held_out=held_out,
        files=[] if folder is None else [str(folder / name) for name in (SUMMARY, ARRAYS, FIGURE)],
    )
