"""How far curvature scores depend on the step h and on the number of directions, at one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine import samples as scoring
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.figures import COLOURS, png
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import Part, Seen, Subject, Sweep
from modeconn_cli.engine.samples.per_sample.curvature import Draws, draw
from modeconn_cli.engine.samples.per_sample.execution import Execution
from modeconn_cli.engine.settings.curvature import CurvatureSettings
from modeconn_cli.engine.statistics import correlations, statistics


@dataclass(frozen=True)
class Row:
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
    rows: tuple[Row, ...]
    figure: str
    table: str


def run(settings: CurvatureSettings, runtime: Runtime) -> StabilityResult | None:
    """Measure along the same directions under every value. Raises SettingsError for what cannot be swept."""
    folder = settings.output_dir
    if settings.sweep_h and settings.method == "hvp":
        raise SettingsError("--method hvp has no step to sweep", "leave out --sweep-h, or use --method fd")
    if settings.compat is not None:
        raise SettingsError(
            "--compat garg depends on the batch, not on the sample", "leave it out of a sweep"
        )
    every = scoring.chosen_checkpoints(settings, runtime)
    epoch = max(every)
    subject = scoring.open_subject(settings, every[epoch], runtime)
    stem = folder / f"curvature_stability_{subject.data.name}_{epoch}"
    seen = scoring.seen_classes(settings, subject, runtime)
    swept = _Swept(settings, subject, stem, seen, runtime)
    if runtime.plan(
        [
            f"curvature of {len(subject.samples):,} samples ({settings.split}) of {subject.data.name} at epoch {epoch} "
            f"along the same directions: {swept.passes} passes on {runtime.device}",
            f"results in {folder}",
        ]
    ):
        return None
    settings = replace(settings, start_epoch=epoch, end_epoch=epoch)
    owned = ["curvature_stability_*"]
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(settings, folder, "curvature sweep", runtime, owned=owned, mends=True) as job,
    ):
        lines = Sweep(settings, subject, swept, job, runtime).run({epoch: every[epoch]})
        line = next(line for line in lines if line["epoch"] == epoch)
        rows = tuple(Row(**row) for row in line["rows"])
        result = StabilityResult(
            dataset=subject.data.name,
            split=settings.split,
            samples=len(subject.samples),
            epoch=epoch,
            checkpoint=line["checkpoint"],
            method=settings.method,
            h=settings.h,
            niter=settings.niter,
            temp=settings.temp,
            layout=swept.execution.layout,
            rows=rows,
            figure=f"{stem}.png",
            table=f"{stem}.csv",
        )
        if not job.complete:
            summary = stem.with_name(f"{stem.name}.json")
            scoring.write_summary(summary, result, by_epoch=False)
            job.finish([*swept.files(epoch), summary])
    return result


class _Swept:
    """Scores of samples under every value that is swept; columns are called `<parameter> <value> <what>`."""

    def __init__(
        self, settings: CurvatureSettings, subject: Subject, stem: Path, seen: Seen, runtime: Runtime
    ) -> None:
        self.settings, self._stem, self.seen = settings, stem, seen
        self.execution = Execution(subject.model, subject.arch.input_shape, runtime.note)
        self.steps = sorted({*settings.sweep_h, settings.h}) if settings.sweep_h else [settings.h]
        self.counts = sorted(set(settings.sweep_niter))
        values = [("h", h) for h in self.steps] if settings.sweep_h else []
        self.values: list[tuple[str, float]] = [*values, *(("niter", n) for n in self.counts)]
        whats = ("norm", "trace", "rounded", "first", "second")
        self.columns = tuple(_column(*value, what) for value in self.values for what in whats)

    @property
    def passes(self) -> int:
        longest = max(self.counts, default=0)
        return 1 + (len(self.steps) - 1) * self.settings.niter + max(self.settings.niter, longest)

    def files(self, _epoch: int) -> list[Path]:
        return [self._stem.with_name(self._stem.name + suffix) for suffix in (".csv", ".png")]

    def begin(self, epoch: int) -> Tensor | None:
        self.execution.refresh()
        return self.seen.begin(epoch)

    def batch(self, batch: Batch) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        settings = self.settings
        others = [h for h in self.steps if h != settings.h]
        forward, labels = self.execution.over(self.seen.classes, batch.labels)
        where = (forward, batch.images, labels, batch.ids)
        how: dict[str, Any] = {"temperature": settings.temp, "seed": settings.seed, "method": settings.method}
        longest = max((settings.niter, *self.counts))
        (own,) = draw(*where, steps=(settings.h,), draws=longest, **how)
        swept = draw(*where, steps=others, draws=settings.niter, **how) if others else []
        columns: dict[str, Tensor] = {}
        for parameter, value in self.values:
            chosen = next((found for found in swept if parameter == "h" and found.h == value), own)
            count = int(value) if parameter == "niter" else settings.niter
            columns |= {_column(parameter, value, what): v for what, v in _values(chosen, count).items()}
        return columns, {}

    def write(self, epoch: int, whole: Part) -> dict[str, Any]:
        rows = [self._row(parameter, value, whole.columns) for parameter, value in self.values]
        table, figure = self.files(epoch)
        header = [field.name for field in fields(Row)]
        files.write_text(table, files.csv_text(header, map(astuple, rows)))
        files.atomic_write(figure, _figure(rows))
        return {"rows": [vars(row) for row in rows]}

    def headline(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {"values": len(facts["rows"])}

    def _row(self, parameter: str, value: float, columns: Mapping[str, np.ndarray]) -> Row:
        def column(what: str, at: float = value) -> np.ndarray:
            return columns[_column(parameter, at, what)]

        reference = self.settings.h if parameter == "h" else max(self.counts)
        norm, base = column("norm"), column("norm", reference)
        both = np.isfinite(norm) & np.isfinite(base) & (base > 0)
        (found,) = correlations({"here": norm, "reference": base})
        halves = correlations({"first": column("first"), "second": column("second")})[0].pearson
        return Row(
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


def _values(draws: Draws, count: int) -> dict[str, Tensor]:
    """Of the first `count` directions, [N] each; `first` and `second` are the means of two halves of them."""
    mean, half = draws.mean(count), count // 2
    none = torch.full_like(mean.hvp_norm, torch.nan)
    return {
        "norm": mean.hvp_norm,
        "trace": mean.trace,
        "rounded": mean.rounded.double(),
        "first": draws.norms[:half].mean(0) if half else none,
        "second": draws.norms[half : 2 * half].mean(0) if half else none,
    }


def _figure(rows: list[Row]) -> bytes:
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
