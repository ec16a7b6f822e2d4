"""`mcx curve eval`: loss and error along a path.

Series over the positions t, [T]: `tr_` on the images trained on (un-augmented), `te_` on held-out images; `nll` is
the cross-entropy in nats, `loss` adds ½·wd·‖w(t)‖², `err` and `acc` are percent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine import barriers, figures, files, jobs, names, weights
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.errors import SettingsError, Stopped
from modeconn_cli.engine.paths import lengths
from modeconn_cli.engine.positions import Positioned, Source, load_data, open_path
from modeconn_cli.engine.records import Record
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.curve import CurveEvalSettings
from modeconn_cli.engine.training import Score, evaluate

SERIES = ("tr_loss", "tr_nll", "tr_err", "te_loss", "te_nll", "te_err")
PARTS = "positions.jsonl"  # finished positions, so that a killed evaluation goes on where it was


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
    provenance: dict[str, Any]


def run(settings: CurveEvalSettings, runtime: Runtime) -> CurveEvalResult | None:
    """Evaluate a path at `num_points` equally spaced positions."""
    if settings.output_dir is None:
        raise SettingsError("no folder for the results", "pass --output-dir DIR")
    source = open_path(settings, runtime)
    data = load_data(settings, source, runtime)
    wd = settings.wd if settings.wd is not None else float(source.about.get("wd", 0.0))
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
    owned = (names.CURVE_ARRAYS, names.CURVE_SUMMARY, names.CURVE_FIGURE)
    folder = settings.output_dir
    with jobs.opened(settings, folder, "curve eval", runtime, inputs=source.inputs, owned=owned) as job:
        positioned = Positioned(source, settings, data.fit)
        with runtime.catching_signals():
            rows = _positions(job, positioned, data, settings, ts, runtime)
            ends = [_end(positioned, source, data, settings, rows, k) for k in (0, 1)]
        arrays = _arrays(ts, rows, source, wd)
        result = _result(settings, source, data, positioned, arrays, ends, wd, job)
        if not job.complete:
            _write(folder, arrays, result, job)
    return result


def _positions(
    job: jobs.Job,
    positioned: Positioned,
    data: Data,
    settings: CurveEvalSettings,
    ts: np.ndarray,
    runtime: Runtime,
) -> list[dict[str, float]]:
    """The figures at every t; those that an earlier run of the job finished are read back."""
    parts = job.private / PARTS
    if not job.resumed:
        parts.unlink(missing_ok=True)
    done = {row["t"]: row for row in map(json.loads, files.read_lines(parts))}
    rows = []
    for i, t in enumerate(ts.tolist()):
        if t not in done:
            positioned.move_to(t)
            scores = {"tr": data.fit, "te": data.held_out}
            row: dict[str, float] = {"t": t}
            for name, samples in scores.items():
                score = evaluate(positioned.model, samples, settings.batch_size)
                row |= {f"{name}_nll": score.loss, f"{name}_err": score.error, f"{name}_acc": score.accuracy}
            files.append_line(parts, json.dumps(row))
            done[t] = row
            job.heartbeat()
        rows.append(done[t])
        runtime.progress(i + 1, len(ts), t=t, te_nll=done[t]["te_nll"])
        if runtime.stopping() and i + 1 < len(ts):
            raise Stopped(
                f"stopped by a signal after {i + 1} of {len(ts)} positions", "run the same command again"
            )
    return rows


def _end(
    positioned: Positioned,
    source: Source,
    data: Data,
    settings: CurveEvalSettings,
    rows: list[dict[str, float]],
    k: int,
) -> dict[str, float]:
    """An endpoint with the statistics of its own file (a curve's file holds those of endpoint 0 only)."""
    if not source.has_batch_norm:
        row = rows[-k]
        return {name: row[name] for name in ("tr_nll", "tr_err", "te_nll", "te_err")}
    if source.has_batch_norm and k >= len(source.buffers):
        return {}
    positioned.set_end(k)
    out: dict[str, float] = {}
    for name, samples in {"tr": data.fit, "te": data.held_out}.items():
        score: Score = evaluate(positioned.model, samples, settings.batch_size)
        out |= {f"{name}_nll": score.loss, f"{name}_err": score.error}
    return out


def _arrays(ts: np.ndarray, rows: list[dict[str, float]], source: Source, wd: float) -> dict[str, np.ndarray]:
    """The content of `curve.npz`."""
    points = list(source.path.points)
    gram = weights.gram(points[1:], points[0]).numpy()
    steps, norms = lengths(gram, np.stack([source.path.coefficients(t) for t in ts]))
    out = {"ts": ts, "dl": steps, "l2_norm": norms}
    for name in ("nll", "err", "acc"):
        for split in ("tr", "te"):
            out[f"{split}_{name}"] = np.array([row[f"{split}_{name}"] for row in rows])
    for split in ("tr", "te"):
        out[f"{split}_loss"] = out[f"{split}_nll"] + 0.5 * wd * norms**2
    for name in SERIES:
        for key, value in statistics(out[name], steps).items():
            if key in ("min", "max", "avg", "int"):
                out[f"{name}_{key}"] = np.array(value)
    return out


def statistics(values: np.ndarray, steps: np.ndarray) -> dict[str, float]:
    """Start, end, min, max, mean over t, and the mean over arc length (`int`, Garipov et al. 2018).

    int = Σ ½(v_{i−1} + v_i) dl_i / Σ dl; where the path has no length, the mean over t.
    """
    length = float(steps.sum())
    middle = 0.5 * (values[:-1] + values[1:])
    mean = float(values.mean())
    return {
        "start": float(values[0]),
        "end": float(values[-1]),
        "min": float(values.min()),
        "max": float(values.max()),
        "avg": mean,
        "int": float((middle * steps[1:]).sum() / length) if length > 0 else mean,
    }


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
    named = {"loss_train": "tr_nll", "error_train": "tr_err", "loss_test": "te_nll", "error_test": "te_err"}
    first, last = source.path.points[0], source.path.points[-1]
    gram = weights.gram([last], first)
    assert settings.output_dir is not None
    return CurveEvalResult(
        curve=source.path.kind,
        num_points=len(arrays["ts"]),
        length=float(steps.sum()),
        endpoint_distance=float(gram[0, 0].sqrt()),
        statistics={name: statistics(arrays[name], steps) for name in SERIES},
        barriers=barriers.all_barriers(arrays["ts"], {key: arrays[name] for key, name in named.items()}),
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
