"""`mcx curve eval`: loss and error along a path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.errors import CONTINUE, Stopped
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.paths import evaluate, figures
from modeconn_cli.engine.paths.answers import Keeping
from modeconn_cli.engine.paths.barriers import Barriers
from modeconn_cli.engine.paths.ensemble import Ensemble, ensemble_of
from modeconn_cli.engine.paths.evaluate import Evaluation, Measurement, SeriesSummary
from modeconn_cli.engine.paths.opened import OpenedPath, open_path
from modeconn_cli.engine.paths.predictions import HEADER, OfClass, Predictions
from modeconn_cli.engine.paths.sharpness import Along, asked
from modeconn_cli.engine.paths.statistics import StatisticsUsed
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Provenance, Record
from modeconn_cli.engine.settings.curve import CurveEvalSettings
from modeconn_cli.engine.settings.shared import in_every_format


@dataclass(frozen=True, kw_only=True)
class CurveEvalResult(Record):
    """`endpoints` are the ends, or every network of a chain, with their own statistics, empty where no file holds them.

    `segments` are the barriers between each network of a chain and the next; a curve or a line has none. `predictions`
    (all samples, then each class), `ensemble` and `sharpness` are what the flags ask for.
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
    predictions: list[OfClass] | None
    ensemble: Ensemble | None
    sharpness: Along | None
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
            *_further(settings),
            f"results in {folder}",
        ]
    ):
        return None
    unread = opened.unread(settings)
    made = [names.CURVE_ARRAYS, names.CURVE_SUMMARY, settings.named(names.CURVE_FIGURE)]
    owned = [*made[:2], *in_every_format(names.CURVE_FIGURE)]
    if settings.save_predictions:
        made += [names.PREDICTIONS, names.PREDICTION_CHANGES, settings.named(names.PREDICTION_FIGURE)]
        owned += [*made[3:5], *in_every_format(names.PREDICTION_FIGURE)]
    if settings.sharpness:
        made.append(settings.named(names.SHARPNESS_FIGURE))
        owned += in_every_format(names.SHARPNESS_FIGURE)
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(settings, folder, "curve eval", runtime, owned=owned, unread=unread) as job,
    ):
        keeping = Keeping(job.private / "answers", settings.save_predictions, frozenset(settings.ensemble))
        found = _evaluated(opened, settings, runtime, job, keeping)
        ensemble = ensemble_of(opened, keeping, runtime, job.private) if settings.ensemble else None
        predictions = _predictions(found, keeping) if settings.save_predictions else None
        wd = settings.wd or 0.0
        sharp = _sharpness(found, settings) if settings.sharpness else None
        arrays = found.arrays(wd) | ({} if sharp is None else sharp.arrays())
        result = _result(found, arrays, wd, folder / made[2], job, predictions, ensemble, sharp)
        if not job.complete:
            files.write_arrays(folder / names.CURVE_ARRAYS, arrays)
            files.write_json(folder / names.CURVE_SUMMARY, result.document())
            title = figures.title(opened)
            files.atomic_write(folder / made[2], figures.path_figure(arrays, title, settings))
            if predictions is not None:
                files.write_arrays(folder / names.PREDICTIONS, predictions.arrays())
                table = files.csv_text(HEADER, predictions.changes())
                files.write_text(folder / names.PREDICTION_CHANGES, table)
                drawn = predictions.figure(title, settings, data.class_names)
                files.atomic_write(folder / settings.named(names.PREDICTION_FIGURE), drawn)
            if sharp is not None:
                files.atomic_write(folder / made[-1], sharp.figure(title, settings))
            job.finish([folder / name for name in made])
    return result


def _further(settings: CurveEvalSettings) -> list[str]:
    """What a plan says of all that is asked for beside the evaluation."""
    out = []
    if settings.save_predictions:
        out.append("the class and confidence of every held-out image at every position")
    if settings.ensemble:
        out.append(f"the ensemble of {len(settings.ensemble)} positions, and their weight average")
    if settings.sharpness:
        images = settings.hessian_samples or "all"
        out.append(f"the Hessian on {images} training images, {_asked(settings)}")
    return out


def _asked(settings: CurveEvalSettings) -> str:
    """What is asked of the Hessian, in words."""
    top, draws = settings.hessian_top, settings.hessian_trace
    words = [f"{top} largest eigenvalues"] * bool(top) + [f"the trace from {draws} vectors"] * bool(draws)
    return " and ".join(words)


def _evaluated(
    opened: OpenedPath, settings: CurveEvalSettings, runtime: Runtime, job: jobs.Job, keeping: Keeping
) -> Evaluation:
    """The evaluation at equally spaced positions. Members of an ensemble elsewhere are measured in the same pass."""
    ts: list[float] = np.linspace(0, 1, settings.num_points).tolist()
    every = sorted({*ts, *settings.ensemble})
    kept = keeping if settings.save_predictions or settings.ensemble else None
    sharp = None
    if settings.sharpness:
        sharp = asked(
            settings.hessian_top,
            settings.hessian_trace,
            settings.hessian_samples,
            opened.subject.data.fit,
            settings.batch_size,
            settings.seed,
            frozenset(ts),
            lambda: _stop(runtime),
        )
    found = evaluate.evaluate_path(
        opened, every, runtime, job.private / evaluate.LOG, keeping=kept, sharp=sharp
    )
    wanted = {*ts}
    return replace(found, measurements=tuple(each for each in found.measurements if each.t in wanted))


def _stop(runtime: Runtime) -> None:
    """Raises Stopped after a signal: a position takes long where the Hessian is looked at."""
    if runtime.stopping():
        raise Stopped("stopped within a position, which is measured again", CONTINUE)


def _sharpness(found: Evaluation, settings: CurveEvalSettings) -> Along:
    """What was found of the Hessian at all positions."""
    images = len(found.opened.subject.data.fit)
    count = settings.hessian_samples
    return Along.of(
        [(each.t, each.sharpness) for each in found.measurements],
        settings.hessian_trace,
        images if count is None else min(count, images),
    )


def _predictions(found: Evaluation, keeping: Keeping) -> Predictions:
    """The answers that were kept at all positions."""
    held_out = found.opened.subject.data.held_out
    each = [keeping.read(measured.t) for measured in found.measurements]
    return Predictions(
        np.array([measured.t for measured in found.measurements]),
        held_out.ids.cpu().numpy(),
        held_out.labels.cpu().numpy(),
        np.stack([answered.classes for answered in each]),
        np.stack([answered.confidence for answered in each]),
    )


def _result(
    found: Evaluation,
    arrays: Mapping[str, np.ndarray],
    wd: float,
    figure: Path,
    job: jobs.Job,
    predictions: Predictions | None,
    ensemble: Ensemble | None,
    sharp: Along | None,
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
        predictions=None if predictions is None else predictions.by_class(),
        ensemble=ensemble,
        sharpness=sharp,
        figure=str(figure),
        arrays=str(figure.with_name(names.CURVE_ARRAYS)),
        provenance=job.record,
    )


def _entries(end: Measurement | None) -> dict[str, float]:
    """An endpoint as the record holds it."""
    wanted = ("tr_nll", "tr_err", "te_nll", "te_err")
    return {} if end is None else {name: getattr(end, name) for name in wanted}
