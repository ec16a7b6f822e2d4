"""How far curvature scores depend on the step h and on the number of directions, at one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.figures import COLOURS, png
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import Measure, ScoredEpoch, score, write_summary
from modeconn_cli.engine.samples.per_sample.curvature import Draws, draw
from modeconn_cli.engine.samples.per_sample.execution import Execution
from modeconn_cli.engine.samples.scored_run import ScoredRun
from modeconn_cli.engine.settings.curvature import CurvatureSettings
from modeconn_cli.engine.statistics import correlations, statistics

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

    @classmethod
    def read(cls, text: str, path: Path) -> Self:
        line = files.parsed(text, path)
        return cls(**{**line, "rows": [StabilityRow(**row) for row in line["rows"]]})


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

    def begin(self) -> None:
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
        return [self._stem.with_name(self._stem.name + suffix) for suffix in (".csv", ".png")]

    def write(self, checkpoint: ScoredEpoch, whole: Mapping[str, np.ndarray]) -> EpochStability:
        rows = [self._row(parameter, value, whole) for parameter, value in self._values]
        table, figure = self.files(checkpoint.epoch)
        header = [field.name for field in fields(StabilityRow)]
        files.write_text(table, files.csv_text(header, map(astuple, rows)))
        files.atomic_write(figure, _figure(rows))
        return EpochStability(**vars(checkpoint), rows=rows)

    def headline(self, row: EpochStability) -> Mapping[str, float | None]:
        return {"values": len(row.rows)}

    def facts(self, rows: Sequence[EpochStability]) -> dict[str, Any]:
        own = next(row for row in rows if row.epoch == self._epoch)
        table, figure = map(str, self.files(own.epoch))
        return {
            "epoch": own.epoch,
            "checkpoint": own.checkpoint,
            "layout": self._execution.layout,
            "rows": tuple(own.rows),
            "figure": figure,
            "table": table,
        }

    def finish(self, result: StabilityResult) -> list[Path]:
        summary = self._stem.with_name(f"{self._stem.name}.json")
        write_summary(summary, result, by_epoch=False)
        return [*self.files(result.epoch), summary]

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


def _figure(rows: list[StabilityRow]) -> bytes:
    """A panel per parameter: rank correlation with the reference, reliability, and the median score."""
    from matplotlib.figure import Figure

    parameters = list(dict.fromkeys(row.parameter for row in rows))
    figure = Figure(figsize=(6.2 * len(parameters), 4), layout="constrained")
    for axis, parameter in zip(
        figure.subplots(1, len(parameters), squeeze=False)[0], parameters, strict=True
    ):
        own = [row for row in rows if row.parameter == parameter]
        values = [row.value for row in own]
        for name, colour in (("spearman", COLOURS[1]), ("reliability", COLOURS[2])):
            found = [np.nan if getattr(row, name) is None else getattr(row, name) for row in own]
            axis.plot(values, found, color=colour, marker="o", label=name)
        axis.set_xscale("log")
        axis.set_ylim(min(0.0, *axis.get_ylim()), 1.02)
        axis.set_xlabel({"h": "step h", "niter": "directions"}[parameter])
        axis.set_ylabel("correlation")
        axis.grid(alpha=0.25)
        scale = axis.twinx()
        scale.plot(
            values,
            [np.nan if row.median is None else row.median for row in own],
            color=COLOURS[0],
            linestyle="--",
            label="median |Hs|",
        )
        scale.set_ylabel("median |Hs|", color=COLOURS[0])
        axis.legend(loc="lower right")
    return png(figure)
