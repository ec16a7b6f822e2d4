"""Loss and error along a path: the one evaluation of curves and straight lines.

Series over the positions t, [T]: `tr_` on the images trained on (un-augmented), `te_` on held-out images; `nll` is
the cross-entropy in nats, `loss` adds ½·wd·‖w(t)‖², `err` and `acc` are percent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import nn

from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.errors import Stopped
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.paths import path as paths
from modeconn_cli.engine.paths.barriers import all_barriers
from modeconn_cli.engine.paths.statistics import Positioned
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.training import evaluate

Row = dict[str, float]  # t, and nll, err and acc of both splits

SERIES = ("tr_loss", "tr_nll", "tr_err", "te_loss", "te_nll", "te_err")
PARTS = "positions-{}.jsonl"  # finished positions of a rank, so that a killed evaluation goes on where it was

# What the tables of barriers call the series.
_BARRIERS = {"loss_train": "tr_nll", "error_train": "tr_err", "loss_test": "te_nll", "error_test": "te_err"}


def figures_of(model: nn.Module, data: Data, batch_size: int) -> Row:
    """One pass over the images trained on and one over the held-out images."""
    row: Row = {}
    for name, samples in {"tr": data.fit, "te": data.held_out}.items():
        score = evaluate(model, samples, batch_size)
        row |= {f"{name}_nll": score.loss, f"{name}_err": score.error, f"{name}_acc": score.accuracy}
    return row


def walk(
    positioned: Positioned,
    data: Data,
    ts: Iterable[float],
    batch_size: int,
    parts: Path | None = None,
    beside: Iterable[Path] = (),
) -> Iterator[Row]:
    """The figures at every t; those that `parts` and the files `beside` hold are read back, new ones go to `parts`.

    Costs one pass over both splits per new position, and the passes that the batch norm policy needs.
    """
    logs = (*beside, *([] if parts is None else [parts]))
    done = {row["t"]: row for log in logs for row in map(json.loads, files.read_lines(log))}
    for t in ts:
        if t not in done:
            positioned.move_to(t)
            done[t] = {"t": t, **figures_of(positioned.model, data, batch_size)}
            if parts is not None:
                files.append_line(parts, json.dumps(done[t]))
        yield done[t]


def complete(
    positioned: Positioned,
    data: Data,
    ts: list[float],
    batch_size: int,
    runtime: Runtime,
    job: jobs.Job | None = None,
) -> list[Row]:
    """The whole walk with its progress, kept in the job's folder as it goes; ranks share the positions.

    Raises Stopped after a signal.
    """
    group = runtime.group
    group.agree(lambda: {**positioned.identity(), **data.identity()})
    parts = None if job is None else job.private / PARTS.format(group.rank)
    mine, rows = group.share(ts), list[Row]()
    beside = [] if job is None else sorted(job.private.glob(PARTS.format("*")))
    for row in walk(positioned, data, mine, batch_size, parts, beside):
        rows.append(row)
        files.failpoint(f"along.after_position.rank{group.rank}")
        runtime.progress(len(rows), len(mine), t=row["t"], te_nll=row["te_nll"])
        if runtime.stopping() and len(rows) < len(mine):
            raise Stopped(
                f"stopped by a signal after {len(rows)} of {len(mine)} positions",
                "run the same command again",
            )
    found = group.gather((rows, positioned.passes))
    positioned.passes = sum(passes for _, passes in found)
    return sorted((row for part, _ in found for row in part), key=lambda row: row["t"])


def arrays(ts: np.ndarray, rows: list[Row], path: paths.Path, wd: float) -> dict[str, np.ndarray]:
    """The content of `curve.npz`."""
    points = list(path.points)
    gram = weights.gram(points[1:], points[0]).numpy()
    steps, norms = paths.lengths(gram, np.stack([path.coefficients(t) for t in ts]))
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


def barriers_of(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, float | None]]:
    """definition -> series -> barrier: losses in nats, errors in percentage points."""
    return all_barriers(arrays["ts"], {key: arrays[name] for key, name in _BARRIERS.items()})


def endpoint_distance(path: paths.Path) -> float:
    """The L2 distance between the first and the last control point, summed in float64."""
    return float(weights.gram([path.points[-1]], path.points[0])[0, 0].sqrt())
