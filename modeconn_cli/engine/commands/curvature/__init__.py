"""`mcx curvature`: curvature of every sample's loss around its input, at one checkpoint or many.

Source: Garg et al. 2024, arXiv:2307.05831; raw units under the documented names, the true scale beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from modeconn_cli.engine import samples as scoring
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import arrays, files, jobs
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import Epoch, Part, Seen, Subject, Sweep
from modeconn_cli.engine.samples.losses import cumulative_loss
from modeconn_cli.engine.samples.per_sample.curvature import measure
from modeconn_cli.engine.samples.per_sample.execution import Execution
from modeconn_cli.engine.settings.curvature import CurvatureSettings
from modeconn_cli.engine.statistics import statistics

DOCUMENTED = {"curvature": "per_image_curvature.npy", "directional_eig": "per_image_directional_eig.npy"}
LABELS, IDS = "per_image_labels.npy", "sample_ids.npy"
WARNED = 0.01  # share of samples near rounding from which on the user is told
COLUMNS = ("curvature", "directional_eig", "hvp_norm", "trace", "trace_stderr")


@dataclass(frozen=True, kw_only=True)
class EpochCurvature(Epoch):
    """One checkpoint. `statistics`: column -> mean, std and quantiles over finite values."""

    statistics: dict[str, dict[str, float | None]]
    rounded: float  # share of samples with a difference within rounding of zero
    nonfinite: int


@dataclass(frozen=True, kw_only=True)
class CurvatureResult(Record):
    schema: ClassVar[str] = "mcx.curvature/1"

    dataset: str
    split: str
    samples: int
    h: float
    niter: int
    temp: float
    method: str
    compat: str | None
    batch_size: int
    seed: int
    layout: str
    epochs: tuple[EpochCurvature, ...]
    scored: int  # epochs in this run
    output_dir: str


def run(settings: CurvatureSettings, runtime: Runtime) -> CurvatureResult | None:
    """Score the epochs that have not been scored yet."""
    folder = settings.output_dir
    chosen = scoring.chosen_checkpoints(settings, runtime)
    subject = scoring.open_subject(settings, next(iter(chosen.values())), runtime)
    seen = scoring.seen_classes(settings, subject, runtime)
    passes = settings.niter + 1 if settings.method == "fd" else 2 * settings.niter + 1
    if runtime.plan(
        [
            f"curvature ({settings.method}, h = {settings.h:g}) of {len(subject.samples):,} samples "
            f"({settings.split}) of {subject.data.name} along {settings.niter} directions at {len(chosen)} epochs of "
            f"{subject.arch.model} on {runtime.device}: {passes} passes each",
            f"results in {folder}",
        ]
    ):
        return None
    settings = replace(settings, start_epoch=min(chosen), end_epoch=max(chosen))
    owned = [
        "per_image_*.npy",
        "epoch_*/per_image_*.npy",
        "curvature_results_*.csv",
        "curvature_summary_*.json",
    ]
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(settings, folder, "curvature", runtime, owned=owned, mends=True) as job,
    ):
        if not job.complete:
            scoring.write_ids(folder / IDS, subject)
        measured = _Curvatures(settings, subject, folder, seen, runtime)
        sweep = Sweep(settings, subject, measured, job, runtime)
        rows = sweep.run(chosen)
        result = CurvatureResult(
            dataset=subject.data.name,
            split=settings.split,
            samples=len(subject.samples),
            h=settings.h,
            niter=settings.niter,
            temp=settings.temp,
            method=settings.method,
            compat=settings.compat,
            batch_size=settings.batch_size,
            seed=settings.seed,
            layout=measured.execution.layout,
            epochs=tuple(EpochCurvature(**row) for row in rows),
            scored=sweep.scored,
            output_dir=str(folder),
        )
        if not job.complete:
            job.finish(measured.products(result))
    return result


class _Curvatures:
    """Curvatures of samples under the subject's present weights, and the files they go to."""

    columns = (*COLUMNS, "rounded")

    def __init__(
        self, settings: CurvatureSettings, subject: Subject, folder: Path, seen: Seen, runtime: Runtime
    ) -> None:
        self.settings, self.subject, self.folder, self.runtime = settings, subject, folder, runtime
        self.seen = seen
        self.execution = Execution(subject.model, subject.arch.input_shape, runtime.note)

    def files(self, epoch: int) -> list[Path]:
        place = self.folder / f"epoch_{epoch}"
        return [*(place / name for name in (*DOCUMENTED.values(), LABELS)), self._table(epoch)]

    def _table(self, epoch: int) -> Path:
        return self.folder / f"curvature_results_{self.subject.data.name}_{epoch}.csv"

    def begin(self, epoch: int) -> Tensor | None:
        self.execution.refresh()
        return self.seen.begin(epoch)

    def batch(self, batch: Batch) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        settings = self.settings
        forward, labels = self.execution.over(self.seen.classes, batch.labels)
        found = measure(
            forward, batch.images, labels, batch.ids, h=settings.h, draws=settings.niter,
            temperature=settings.temp, seed=settings.seed, method=settings.method,
        )  # fmt: skip
        columns = {name: getattr(found, name) for name in COLUMNS}
        if settings.compat == "garg":
            # The gradient of the batch's mean loss: each sample's own, divided by the size of its batch.
            for name in DOCUMENTED:
                columns[name] = columns[name] / len(batch)
        return {**columns, "rounded": found.rounded.double()}, {}

    def write(self, epoch: int, whole: Part) -> dict[str, Any]:
        columns = {name: whole.columns[name] for name in COLUMNS}
        chosen = slice(None) if self.seen.chosen is None else self.seen.chosen.numpy()
        bad = int((~np.isfinite(columns["curvature"][chosen])).sum())
        if bad:
            self.runtime.warn(f"epoch {epoch}: {bad:,} curvatures are NaN or infinite; they are kept")
        rounded = float(whole.columns["rounded"][chosen].mean())
        if rounded > WARNED:
            self.runtime.warn(
                f"epoch {epoch}: {100 * rounded:.1f} % of the samples have a difference within rounding of zero: "
                "use a larger --h, or --method hvp"
            )
        place = self.folder / f"epoch_{epoch}"
        for name, file in DOCUMENTED.items():
            files.write_array(place / file, columns[name].astype(np.float32))
        files.write_array(place / LABELS, self.subject.samples.labels.cpu().numpy())
        files.write_text(self._table(epoch), self._rows(columns))
        found = {name: statistics(values) for name, values in columns.items()}
        return {"statistics": found, "rounded": rounded, "nonfinite": bad}

    def headline(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {"mean_curvature": facts["statistics"]["curvature"]["mean"]}

    def _rows(self, columns: Mapping[str, np.ndarray]) -> str:
        samples = self.subject.samples
        values = (columns[name].tolist() for name in COLUMNS)
        rows = zip(samples.ids.tolist(), samples.labels.tolist(), *values, strict=True)
        return files.csv_text(["sample_id", "label", *COLUMNS], rows)

    def products(self, result: CurvatureResult) -> list[Path]:
        """The top-level arrays (the mean over the epochs listed) and the summary; every file of the job."""
        epochs, count = [each.epoch for each in result.epochs], len(self.subject.samples)
        for name in DOCUMENTED.values():
            each = [self.folder / f"epoch_{epoch}" / name for epoch in epochs]
            # Where classes came later: the mean over the epochs that a sample has a score at.
            total, scored = cumulative_loss(arrays.stream(each, count), count, skip_unseen=self.seen.partial)
            files.write_array(self.folder / name, (total / np.maximum(scored, 1)).astype(np.float32))
        files.write_array(self.folder / LABELS, self.subject.samples.labels.cpu().numpy())
        summary = self.folder / f"curvature_summary_{self.subject.data.name}.json"
        scoring.write_summary(summary, result)
        tops = [self.folder / name for name in (*DOCUMENTED.values(), LABELS, IDS)]
        return [*(path for epoch in epochs for path in self.files(epoch)), *tops, summary]
