"""How far curvature scores depend on the step h and on the number of directions, at one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.figures import (
    BLUE,
    GREEN,
    VERMILION,
    WIDE,
    WIDTH,
    about,
    lines_of,
    page,
)
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import Measure, ScoredEpoch, score, write_summary
from modeconn_cli.engine.samples.per_sample.curvature import Draws, draw
from modeconn_cli.engine.samples.per_sample.execution import Execution
from modeconn_cli.engine.samples.scored_run import ScoredRun
from modeconn_cli.engine.settings.curvature import CurvatureSettings
from modeconn_cli.engine.settings.shared import FigureSettings
from modeconn_cli.engine.statistics import correlations, statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WHATS = ("norm", "trace", "rounded", "first", "second")  # what is known of a sample under one value


@dataclass(frozen=True)
class StabilityRow:
    """Scores under one value of a parameter, in the true scale ‖Hs‖, against those under the reference value.

    `median_change`: median over samples of the relative difference. `reliability`: Pearson correlation r of the means
    over two halves of the directions, stepped up to all of them, 2r / (1 + r) (Spearman 1910, Brown 1910).
    """

    parameter: str
    value: float
    mean: float | None
    median: float | None
    mean_trace: float | None
    spearman: float | None
    pearson: float | None
    median_change: float | None
    reliability: float | None
    rounded: float


@dataclass(frozen=True, kw_only=True)
class EpochStability(ScoredEpoch):
    """The checkpoint, under every value that is swept."""

    rows: list[StabilityRow]


@dataclass(frozen=True, kw_only=True)
class StabilityResult(Record):
    schema: ClassVar[str] = "mcx.curvature_stability/1"

    dataset: str
    split: str
    samples: int
    epoch: int
    checkpoint: str
    method: str
    h: float
    niter: int
    temp: float
    layout: str
    rows: tuple[StabilityRow, ...]
    figure: str
    table: str


def run(settings: CurvatureSettings, runtime: Runtime) -> StabilityResult | None:
    """Measure along the same directions under every value. Raises SettingsError for what cannot be swept."""
    if settings.sweep_h and settings.method == "hvp":
        raise SettingsError("--method hvp has no step to sweep", "leave out --sweep-h, or use --method fd")
    if settings.compat is not None:
        raise SettingsError(
            "--compat garg depends on the batch, not on the sample", "leave it out of a sweep"
        )
    return score(settings, runtime, "curvature sweep", _Swept)


class _Swept(Measure[CurvatureSettings, EpochStability, StabilityResult]):
    """Scores of samples under every value that is swept; columns are called `<parameter> <value> <what>`."""

    row, record, owned = EpochStability, StabilityResult, ("curvature_stability_*",)
    listed = None  # it asks about some samples of those whose table lies there

    def __init__(self, settings: CurvatureSettings, run: ScoredRun, folder: Path, runtime: Runtime) -> None:
        super().__init__(settings, run, folder, runtime)
        (self._epoch,) = run.checkpoints
        self._stem = folder / f"curvature_stability_{run.data.name}_{self._epoch}"
        self._execution = Execution(run.model, run.arch.input_shape, runtime.note)
        self._steps = sorted({*settings.sweep_h, settings.h}) if settings.sweep_h else [settings.h]
        self._counts = sorted(settings.sweep_niter)
        self._values: list[tuple[str, float]] = [("h", h) for h in self._steps] if settings.sweep_h else []
        self._values += [("niter", count) for count in self._counts]
        self.columns = tuple(_column(*value, what) for value in self._values for what in WHATS)

    def plan(self) -> str:
        settings, run = self.settings, self.run
        passes = 1 + (len(self._steps) - 1) * settings.niter + max(settings.niter, *self._counts, 0)
        return (
            f"curvature of {len(run.samples):,} samples ({settings.split}) of {run.data.name} at epoch {self._epoch} "
            f"along the same directions: {passes} passes on {self.runtime.device}"
        )

    def begin(self, checkpoint: Checkpoint) -> None:  # noqa: ARG002
        self._execution.refresh()

    def batch(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.settings
        forward, labels = self._execution.over(self.run.seen.classes, batch.labels)
        drawn = partial(
            draw, forward, batch.images, labels, batch.ids,
            temperature=settings.temp, seed=settings.seed, method=settings.method,
        )  # fmt: skip
        (own,) = drawn(steps=(settings.h,), draws=max((settings.niter, *self._counts)))
        others = [h for h in self._steps if h != settings.h]
        by_step = {each.h: each for each in drawn(steps=others, draws=settings.niter)} if others else {}
        columns: dict[str, Tensor] = {}
        for parameter, value in self._values:
            chosen, count = own, settings.niter
            if parameter == "h":
                chosen = by_step.get(value, own)
            else:
                count = int(value)
            columns |= {_column(parameter, value, what): v for what, v in _under(chosen, count).items()}
        return columns

    def files(self, _epoch: int) -> list[Path]:
        return [self._stem.with_name(f"{self._stem.name}.csv")]

    @property
    def _figure(self) -> Path:
        return self._stem.with_name(self.settings.named(f"{self._stem.name}.png"))

    def write(self, checkpoint: ScoredEpoch, whole: Mapping[str, np.ndarray]) -> EpochStability:
        rows = [self._row(parameter, value, whole) for parameter, value in self._values]
        (table,) = self.files(checkpoint.epoch)
        header = [field.name for field in fields(StabilityRow)]
        files.write_text(table, files.csv_text(header, map(astuple, rows)))
        return EpochStability(**vars(checkpoint), rows=rows)

    def headline(self, row: EpochStability) -> Mapping[str, float | None]:
        return {"values": len(row.rows)}

    def facts(self, rows: Sequence[EpochStability]) -> dict[str, Any]:
        own = next(row for row in rows if row.epoch == self._epoch)
        return {
            "epoch": own.epoch,
            "checkpoint": own.checkpoint,
            "layout": self._execution.layout,
            "rows": tuple(own.rows),
            "figure": str(self._figure),
            "table": str(self.files(own.epoch)[0]),
        }

    def finish(self, result: StabilityResult) -> list[Path]:
        summary = self._stem.with_name(f"{self._stem.name}.json")
        write_summary(summary, result, by_epoch=False)
        title = f"curvature sweep: {about(self.run.arch.model, result.dataset, [result.epoch])}"
        files.atomic_write(self._figure, figure(result.rows, title, self.settings))
        return [*self.files(result.epoch), self._figure, summary]

    def _row(self, parameter: str, value: float, columns: Mapping[str, np.ndarray]) -> StabilityRow:
        def column(what: str, at: float = value) -> np.ndarray:
            return columns[_column(parameter, at, what)]

        reference = self.settings.h if parameter == "h" else max(self._counts)
        norm, base = column("norm"), column("norm", reference)
        both = np.isfinite(norm) & np.isfinite(base) & (base > 0)
        (found,) = correlations({"here": norm, "reference": base})
        halves = correlations({"first": column("first"), "second": column("second")})[0].pearson
        return StabilityRow(
            parameter=parameter,
            value=value,
            mean=statistics(norm)["mean"],
            median=statistics(norm)["q50"],
            mean_trace=statistics(column("trace"))["mean"],
            spearman=found.spearman,
            pearson=found.pearson,
            median_change=float(np.median(np.abs(norm - base)[both] / base[both])) if both.any() else None,
            reliability=None if halves is None or halves <= -1 else 2 * halves / (1 + halves),
            rounded=float(column("rounded").mean()),
        )


def _column(parameter: str, value: float, what: str) -> str:
    return f"{parameter} {value!r} {what}"


def _under(draws: Draws, count: int) -> dict[str, Tensor]:
    """What the first `count` directions say, [N] each; `first` and `second` are the means of two halves of them."""
    mean, half = draws.mean(count), count // 2
    none = torch.full_like(mean.hvp_norm, torch.nan)
    return {
        "norm": mean.hvp_norm,
        "trace": mean.trace,
        "rounded": mean.rounded.double(),
        "first": draws.norms[:half].mean(0) if half else none,
        "second": draws.norms[half : 2 * half].mean(0) if half else none,
    }


def figure(rows: Sequence[StabilityRow], title: str, look: FigureSettings) -> bytes:
    """Per parameter: how alike the scores of samples are under its values, and how large they are."""
    parameters = list(dict.fromkeys(row.parameter for row in rows))
    columns = len(parameters)
    with page(look, title, 2, columns, width=WIDTH if columns == 1 else WIDE, height=1.8) as drawn:
        for k, parameter in enumerate(parameters):
            own = [row for row in rows if row.parameter == parameter]
            draw_agreement(drawn.panels[k], own)
            draw_size(drawn.panels[columns + k], own)
    return drawn.content


def _along(rows: Sequence[StabilityRow], name: str) -> np.ndarray:
    return np.array([getattr(row, name) for row in rows], dtype=float)  # None: NaN


def draw_agreement(axis: Axes, rows: Sequence[StabilityRow]) -> None:
    """Rank correlation with the reference and reliability, by the values of one parameter."""
    for k, (name, words, colour) in enumerate(
        (("spearman", "Spearman with reference", BLUE), ("reliability", "reliability", GREEN))
    ):
        axis.plot([row.value for row in rows], _along(rows, name), color=colour, label=words, **lines_of(k))
    axis.set_ylim(min(0.0, *axis.get_ylim()), 1.03)
    axis.set_ylabel("correlation")
    _values_of(axis, rows)


def draw_size(axis: Axes, rows: Sequence[StabilityRow]) -> None:
    """The median score in the true scale, by the values of one parameter."""
    axis.plot([row.value for row in rows], _along(rows, "median"), color=VERMILION, marker="^")
    axis.set_ylabel("median |Hs|")
    axis.set_ylim(bottom=0)
    _values_of(axis, rows)


def _values_of(axis: Axes, rows: Sequence[StabilityRow]) -> None:
    """The axis of a parameter: steps by powers of ten, numbers of directions as whole numbers."""
    axis.set_xscale("log")
    axis.set_xlabel({"h": "step h", "niter": "directions"}[rows[0].parameter])
    if rows[0].parameter == "niter":
        axis.set_xticks([row.value for row in rows], [f"{row.value:g}" for row in rows], minor=False)
        axis.set_xticks([], minor=True)
