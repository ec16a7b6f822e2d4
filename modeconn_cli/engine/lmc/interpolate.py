"""`mcx lmc interpolate`: the straight line between any two checkpoints, by all barrier definitions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from modeconn_cli.engine import figures, files, jobs, positions
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.lmc import line
from modeconn_cli.engine.records import Record
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.lmc import LmcInterpolateSettings

ARRAYS, SUMMARY, FIGURE = "line.npz", "line_summary.json", "line.png"


@dataclass(frozen=True, kw_only=True)
class LmcInterpolateResult(Record):
    """Losses in nats, errors in percent; `barriers`: definition -> series -> barrier."""

    schema: ClassVar[str] = "mcx.lmc_interpolate/1"

    first: str
    second: str
    alphas: list[float]
    losses_train: list[float]
    accuracy_lst_train: list[float]
    losses_test: list[float]
    accuracy_lst_test: list[float]
    distance: float
    barriers: dict[str, dict[str, float | None]]
    bn: dict[str, Any]
    held_out: str


def run(settings: LmcInterpolateSettings, runtime: Runtime) -> LmcInterpolateResult | None:
    """Evaluate the line from the first checkpoint (α = 0) to the second (α = 1)."""
    given = settings.checkpoints or tuple(
        p for p in (settings.endpoint0, settings.endpoint1) if p is not None
    )
    if len(given) != 2:
        raise SettingsError(f"two checkpoints are needed, got {len(given)}", "mcx lmc interpolate A.pt B.pt")
    at = line.alphas(settings.num_alphas)
    settings = replace(settings, checkpoints=(), endpoint0=given[0], endpoint1=given[1])
    source = positions.open_path(settings, runtime)
    data = positions.load_data(settings, source, runtime)
    if runtime.dry_run:
        runtime.plan([f"evaluate {len(at)} positions on {len(data.fit) + len(data.held_out):,} images"])
        return None
    if settings.output_dir is None:
        return _result(settings, line.measure(source, data, settings, at), data.use_test)
    folder = settings.output_dir
    owned = (ARRAYS, SUMMARY, FIGURE)
    with jobs.opened(settings, folder, "lmc interpolate", runtime, inputs=source.inputs, owned=owned) as job:
        result = _result(settings, line.measure(source, data, settings, at), data.use_test)
        if not job.complete:
            arrays = {name: np.array(getattr(result, name)) for name in ("alphas", *line.LISTS)}
            files.write_arrays(folder / ARRAYS, arrays)
            files.write_json(folder / SUMMARY, result.document())
            files.atomic_write(folder / FIGURE, _draw(result))
            job.finish([folder / name for name in owned])
    return result


def _result(settings: LmcInterpolateSettings, found: line.Line, use_test: bool) -> LmcInterpolateResult:
    assert settings.endpoint0 is not None
    assert settings.endpoint1 is not None
    return LmcInterpolateResult(
        first=tilde(settings.endpoint0),
        second=tilde(settings.endpoint1),
        alphas=found.alphas,
        losses_train=found.losses_train,
        accuracy_lst_train=found.accuracy_lst_train,
        losses_test=found.losses_test,
        accuracy_lst_test=found.accuracy_lst_test,
        distance=found.distance,
        barriers=found.barriers(),
        bn=found.bn,
        held_out="test" if use_test else "val",
    )


def _draw(result: LmcInterpolateResult) -> bytes:
    ts = np.array(result.alphas)
    arrays = {
        "ts": ts,
        "tr_nll": np.array(result.losses_train),
        "te_nll": np.array(result.losses_test),
        "te_err": 100 - 100 * np.array(result.accuracy_lst_test),
    }
    return figures.along_path({"line": arrays}, shade=True)
