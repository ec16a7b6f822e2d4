"""`mcx lmc interpolate`: the straight line between any two checkpoints, by all barrier definitions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.lmc import layer_figures
from modeconn_cli.engine.commands.lmc.by_layer import ByLayer, LayerLine
from modeconn_cli.engine.commands.lmc.line import Line, alphas, with_lists
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.paths.barriers import Barriers
from modeconn_cli.engine.paths.evaluate import LOG, SeriesSummary, evaluate_path, summary
from modeconn_cli.engine.paths.feature_connectivity import SiteConnectivity
from modeconn_cli.engine.paths.figures import path_figure, title
from modeconn_cli.engine.paths.opened import open_path
from modeconn_cli.engine.paths.statistics import StatisticsUsed
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.lmc import LmcInterpolateSettings
from modeconn_cli.engine.settings.shared import FigureSettings, in_every_format

FIGURE = "line.png"
LAYERS_FIGURE, FEATURES_FIGURE = "line_layers.png", "line_features.png"  # of --by-layer


@dataclass(frozen=True, kw_only=True)
class LmcInterpolateResult(Record):
    """Losses in nats, errors in percent.

    `distance` is between the networks as they were interpolated; `distance_unpermuted` between the files, None
    without a permutation. `layers` and `features` are what `--by-layer` asks for, None without it; no features where
    none can be seen.
    """

    schema: ClassVar[str] = "mcx.lmc_interpolate/1"

    first: str
    second: str
    permutation: str | None
    line: Line
    distance: float
    distance_unpermuted: float | None
    statistics: dict[str, SeriesSummary]
    barriers: Barriers
    bn: StatisticsUsed
    held_out: str
    layers: list[LayerLine] | None
    features: list[SiteConnectivity] | None
    files: list[str]

    def fields(self) -> dict[str, Any]:
        return with_lists(super().fields())


def run(settings: LmcInterpolateSettings, runtime: Runtime) -> LmcInterpolateResult | None:
    """Evaluate the line from the first checkpoint (α = 0) to the second (α = 1)."""
    ends = settings.ends
    ts = alphas(settings.num_alphas)
    settings = replace(settings, checkpoints=(), endpoint0=ends[0], endpoint1=ends[1])
    opened = open_path(settings, runtime)
    settings = opened.completed(settings)
    data, folder = opened.subject.data, settings.output_dir
    by_layer = ByLayer(opened, settings.layers, ts) if settings.by_layer else None
    if runtime.plan(
        [
            f"evaluate {len(ts)} positions on {len(data.fit) + len(data.held_out):,} images of {data.name}, batch "
            f"norm: {opened.batch_norm}",
            *([] if by_layer is None else [by_layer.plan]),
            f"results in {folder}" if folder else "no files: pass --output-dir DIR to keep the results",
        ]
    ):
        return None
    unread = opened.unread(settings)
    figures = (FIGURE, LAYERS_FIGURE, FEATURES_FIGURE)
    owned = (
        names.LINE_ARRAYS,
        names.LINE_SUMMARY,
        *(name for each in figures for name in in_every_format(each)),
    )
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        _without_files(settings, runtime)
        if folder is None
        else jobs.opened(settings, folder, "lmc interpolate", runtime, owned=owned, unread=unread) as job,
    ):
        private = None if job is None else job.private
        whole = runtime if by_layer is None else runtime.part(0, 1, by_layer.stages)
        found = evaluate_path(opened, ts, whole, None if private is None else private / LOG)
        layers = features = None
        if by_layer is not None:
            layers, features = by_layer.run(found.measurements, private, runtime)
        drawn = [name for name, wanted in zip(figures, (True, layers, features), strict=True) if wanted]
        made = [names.LINE_SUMMARY, names.LINE_ARRAYS, *map(settings.named, drawn)]
        arrays, line = found.arrays(opened.weight_decay), Line.measured(found.measurements)
        result = LmcInterpolateResult(
            first=tilde(ends[0]),
            second=tilde(ends[1]),
            permutation=None if settings.permutation is None else tilde(settings.permutation),
            line=line,
            distance=opened.path.endpoint_distance(),
            distance_unpermuted=opened.distance_unpermuted,
            statistics={name: summary(values, arrays["dl"]) for name, values in line.series().items()},
            barriers=line.barriers(),
            bn=found.statistics,
            held_out="test" if data.use_test else "val",
            layers=layers,
            features=features,
            files=[] if folder is None else [str(folder / name) for name in made],
        )
        if folder is not None and job is not None and not job.complete:
            files.write_arrays(folder / names.LINE_ARRAYS, {**arrays, **vars(line)})
            files.write_json(folder / names.LINE_SUMMARY, result.document())
            figure = path_figure(arrays, title(opened), settings, axis_label=_axis_label(ends))
            files.atomic_write(folder / settings.named(FIGURE), figure)
            for name, content in _maps(result, title(opened), settings, _axis_label(ends)):
                files.atomic_write(folder / settings.named(name), content)
            job.finish([folder / name for name in made])
    return result


@contextlib.contextmanager
def _without_files(settings: LmcInterpolateSettings, runtime: Runtime) -> Iterator[None]:
    """No job, whose ranks have to agree all the same."""
    jobs.agree(settings, runtime)
    yield


def _maps(
    result: LmcInterpolateResult, title: str, look: FigureSettings, axis_label: str
) -> Iterator[tuple[str, bytes]]:
    """The figures of `--by-layer`, as far as there is something to draw."""
    alphas = result.line.alphas
    if result.layers:
        yield LAYERS_FIGURE, layer_figures.gaps(result.layers, alphas, title, look, axis_label)
    if result.features:
        yield FEATURES_FIGURE, layer_figures.cosines(result.features, alphas, title, look, axis_label)


def _axis_label(ends: tuple[Path, ...]) -> str:
    """Which file lies at which end, with its folder where the names are the same."""
    first, second = (path.stem for path in ends)
    if first == second:
        first, second = (f"{path.parent.name}/{path.stem}" for path in ends)
    return f"α (0: {first}, 1: {second})"
