"""`mcx curve eval`: loss and error along a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.paths import evaluate, figures
from modeconn_cli.engine.paths.barriers import Barriers
from modeconn_cli.engine.paths.evaluate import Evaluation, Measurement, SeriesSummary
from modeconn_cli.engine.paths.opened import open_path
from modeconn_cli.engine.paths.statistics import StatisticsUsed
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.curve import CurveEvalSettings
from modeconn_cli.engine.settings.shared import in_every_format


@dataclass(frozen=True, kw_only=True)
class CurveEvalResult(Record):
    """`endpoints` are the ends, or every network of a chain, with their own statistics, empty where no file holds them.

    `segments` are the barriers between each network of a chain and the next; a curve or a line has none.
    """

    schema: ClassVar[str] = "mcx.curve_eval/1"

    curve: str
    num_points: int
    length: float
    endpoint_distance: float
    statistics: dict[str, SeriesSummary]
    barriers: Barriers
    segments: list[Barriers]
    bn: StatisticsUsed
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
    folder = settings.output_dir
    opened = open_path(settings, runtime)
    settings, data = opened.completed(settings), opened.subject.data
    if runtime.plan(
        [
            f"evaluate a {opened.path.kind} at {settings.num_points} positions on {len(data.fit):,} training and "
            f"{len(data.held_out):,} held-out images of {data.name}, batch norm: {opened.batch_norm}",
            f"results in {folder}",
        ]
    ):
        return None
    unread = opened.unread(settings)
    made = (names.CURVE_ARRAYS, names.CURVE_SUMMARY, settings.named(names.CURVE_FIGURE))
    owned = (*made[:2], *in_every_format(names.CURVE_FIGURE))
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(settings, folder, "curve eval", runtime, owned=owned, unread=unread) as job,
    ):
        ts = np.linspace(0, 1, settings.num_points).tolist()
        found = evaluate.evaluate_path(opened, ts, runtime, job.private / evaluate.LOG)
        wd = settings.wd or 0.0
        arrays = found.arrays(wd)
        result = _result(found, arrays, wd, folder / made[2], job)
        if not job.complete:
            files.write_arrays(folder / names.CURVE_ARRAYS, arrays)
            files.write_json(folder / names.CURVE_SUMMARY, result.document())
            picture = figures.path_figure(arrays, figures.title(opened), settings)
            files.atomic_write(folder / made[2], picture)
            job.finish([folder / name for name in made])
    return result


def _result(
    found: Evaluation, arrays: Mapping[str, np.ndarray], wd: float, figure: Path, job: jobs.Job
) -> CurveEvalResult:
    path, data, steps = found.opened.path, found.opened.subject.data, arrays["dl"]
    given = found.opened.num_given
    return CurveEvalResult(
        curve=path.kind,
        num_points=len(steps),
        length=float(steps.sum()),
        endpoint_distance=path.endpoint_distance(),
        statistics={name: evaluate.summary(arrays[name], steps) for name in evaluate.SERIES},
        barriers=evaluate.barriers_of(arrays),
        bn=found.statistics,
        segments=evaluate.barriers_of_segments(arrays, given - 1) if given > 2 else [],
        endpoints=[_entries(found.end(number)) for number in range(given)],
        held_out="test" if data.use_test else "val",
        wd=wd,
        data=data.describe(),
        passes={"statistics": found.passes},
        figure=str(figure),
        arrays=str(figure.with_name(names.CURVE_ARRAYS)),
        provenance=job.record,
    )


def _entries(end: Measurement | None) -> dict[str, float]:
    """An endpoint as the record holds it."""
    wanted = ("tr_nll", "tr_err", "te_nll", "te_err")
    return {} if end is None else {name: getattr(end, name) for name in wanted}
