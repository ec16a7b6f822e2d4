"""`mcx curve eval`: loss and error along a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.paths import evaluate as along
from modeconn_cli.engine.paths import figures
from modeconn_cli.engine.paths.statistics import Positioned, Source, open_path
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.curve import CurveEvalSettings


@dataclass(frozen=True, kw_only=True)
class CurveEvalResult(Record):
    """`barriers`: definition -> series -> rise. `endpoints` are the ends with their own statistics."""

    schema: ClassVar[str] = "mcx.curve_eval/1"

    curve: str
    num_points: int
    length: float
    endpoint_distance: float
    statistics: dict[str, dict[str, float]]
    barriers: dict[str, dict[str, float | None]]
    bn: dict[str, Any]
    endpoints: list[dict[str, float]]
    held_out: str
    wd: float
    data: dict[str, Any]
    passes: dict[str, int]
    figure: str
    arrays: str
    provenance: Provenance | None


def run(settings: CurveEvalSettings, runtime: Runtime) -> CurveEvalResult | None:
    """Evaluate a path at `num_points` equally spaced positions."""
    source = open_path(settings, runtime)
    data = source.data
    wd = settings.wd if settings.wd is not None else float(source.subject.about.wd or 0.0)
    ts = np.linspace(0, 1, settings.num_points)
    if runtime.plan(
        [
            f"evaluate a {source.path.kind} at {len(ts)} positions on {len(data.fit):,} training and "
            f"{len(data.held_out):,} held-out images of {data.name}, batch norm: "
            f"{settings.bn if source.has_batch_norm else 'none in the network'}",
            f"results in {settings.output_dir}",
        ]
    ):
        return None
    unread = settings.unread(source.has_batch_norm)
    owned = (names.CURVE_ARRAYS, names.CURVE_SUMMARY, names.CURVE_FIGURE)
    folder = settings.output_dir
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(
            settings, folder, "curve eval", runtime, inputs=source.inputs, owned=owned, unread=unread
        ) as job,
    ):
        positioned = Positioned(source, settings, data.fit)
        rows = along.complete(positioned, data, ts.tolist(), settings.batch_size, runtime, job)
        ends = [_end(positioned, source, data, settings, rows, k) for k in (0, 1)]
        arrays = along.arrays(ts, rows, source.path, wd)
        result = _result(settings, source, data, positioned, arrays, ends, wd, job)
        if not job.complete:
            _write(folder, arrays, result, job)
    return result


def _end(
    positioned: Positioned,
    source: Source,
    data: Data,
    settings: CurveEvalSettings,
    rows: list[along.Row],
    k: int,
) -> dict[str, float]:
    """An endpoint with the statistics of its own file (a curve's file holds those of endpoint 0 only)."""
    if source.has_batch_norm and k >= len(source.buffers):
        return {}
    if source.has_batch_norm:
        positioned.set_end(k)
        row = along.figures_of(positioned.model, data, settings.batch_size)
    else:
        row = rows[-k]
    return {name: row[name] for name in ("tr_nll", "tr_err", "te_nll", "te_err")}


def _result(
    settings: CurveEvalSettings,
    source: Source,
    data: Data,
    positioned: Positioned,
    arrays: Mapping[str, np.ndarray],
    ends: list[dict[str, float]],
    wd: float,
    job: jobs.Job,
) -> CurveEvalResult:
    steps = arrays["dl"]
    return CurveEvalResult(
        curve=source.path.kind,
        num_points=len(arrays["ts"]),
        length=float(steps.sum()),
        endpoint_distance=along.endpoint_distance(source.path),
        statistics={name: along.statistics(arrays[name], steps) for name in along.SERIES},
        barriers=along.barriers_of(arrays),
        bn=positioned.describe(),
        endpoints=ends,
        held_out="test" if data.use_test else "val",
        wd=wd,
        data=data.describe(),
        passes={"statistics": positioned.passes},
        figure=str(settings.output_dir / names.CURVE_FIGURE),
        arrays=str(settings.output_dir / names.CURVE_ARRAYS),
        provenance=job.record,
    )


def _write(
    folder: FilePath, arrays: Mapping[str, np.ndarray], result: CurveEvalResult, job: jobs.Job
) -> None:
    files.write_arrays(folder / names.CURVE_ARRAYS, arrays)
    files.write_json(folder / names.CURVE_SUMMARY, result.document())
    curves = {result.curve: {name: arrays[name] for name in ("ts", "tr_nll", "te_nll", "te_err")}}
    files.atomic_write(folder / names.CURVE_FIGURE, figures.along_path(curves))
    job.finish([folder / name for name in (names.CURVE_ARRAYS, names.CURVE_SUMMARY, names.CURVE_FIGURE)])
