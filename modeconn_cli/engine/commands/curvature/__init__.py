"""`mcx curvature`: curvature of every sample's loss around its input, at one checkpoint or many.

Source: Garg et al. 2024, arXiv:2307.05831; raw units under the documented names, the true scale beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.results import arrays, files
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import Measure, ScoredEpoch, score, write_summary
from modeconn_cli.engine.samples.losses import cumulative_loss
from modeconn_cli.engine.samples.per_sample.curvature import FEW, check_products, measure
from modeconn_cli.engine.samples.per_sample.execution import Execution
from modeconn_cli.engine.settings.curvature import CurvatureSettings
from modeconn_cli.engine.statistics import statistics

DOCUMENTED = {"curvature": "per_image_curvature.npy", "directional_eig": "per_image_directional_eig.npy"}
LABELS, IDS = "per_image_labels.npy", "sample_ids.npy"
OWNED = ("per_image_*.npy", "epoch_*/per_image_*.npy", "curvature_results_*.csv", "curvature_summary_*.json")
WARNED = 0.01  # share of samples near rounding from which on the user is told
COLUMNS = ("curvature", "directional_eig", "hvp_norm", "trace", "trace_stderr", "trace_of_square")


@dataclass(frozen=True, kw_only=True)
class EpochCurvature(ScoredEpoch):
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
    return score(settings, runtime, "curvature", _Curvatures)


class _Curvatures(Measure[CurvatureSettings, EpochCurvature, CurvatureResult]):
    """Curvature along random directions."""

    row, record, ids = EpochCurvature, CurvatureResult, IDS
    columns, owned = (*COLUMNS, "rounded"), OWNED

    @cached_property
    def _execution(self) -> Execution:
        return Execution(self.run.model, self.run.arch.input_shape, self.runtime.note)

    def plan(self) -> str:
        settings, run = self.settings, self.run
        passes = settings.niter + 1 if settings.method == "fd" else 2 * settings.niter + 1
        return (
            f"curvature ({settings.method}, h = {settings.h:g}) of {len(run.samples):,} samples ({settings.split}) of "
            f"{run.data.name} along {settings.niter} directions at {len(run.checkpoints)} epochs of {run.arch.model} "
            f"on {self.runtime.device}: {passes} passes each"
        )

    def begin(self, checkpoint: Checkpoint) -> None:  # noqa: ARG002
        self._execution.refresh()
        if self.settings.method == "hvp":
            first = next(iter(self.run.samples.batches(FEW)))
            check_products(self.run.model, first.images, first.labels)

    def batch(self, batch: Batch) -> dict[str, Tensor]:
        settings = self.settings
        forward, labels = self._execution.over(self.run.seen.classes, batch.labels)
        found = measure(
            forward, batch.images, labels, batch.ids, h=settings.h, draws=settings.niter,
            temperature=settings.temp, seed=settings.seed, method=settings.method,
        )  # fmt: skip
        columns = {name: getattr(found, name) for name in COLUMNS}
        if settings.compat == "garg":
            # The gradient of the batch's mean loss: each sample's own, divided by the size of its batch.
            for name in DOCUMENTED:
                columns[name] = columns[name] / len(batch)
        return {**columns, "rounded": found.rounded.double()}

    def _table(self, epoch: int) -> Path:
        return self.folder / f"curvature_results_{self.run.data.name}_{epoch}.csv"

    def files(self, epoch: int) -> list[Path]:
        place = self.folder / f"epoch_{epoch}"
        return [*(place / name for name in (*DOCUMENTED.values(), LABELS)), self._table(epoch)]

    def write(self, checkpoint: ScoredEpoch, whole: Mapping[str, np.ndarray]) -> EpochCurvature:
        epoch, seen, samples = checkpoint.epoch, self.run.seen, self.run.samples
        columns = {name: whole[name] for name in COLUMNS}
        bad = int((~np.isfinite(seen.of(columns["curvature"]))).sum())
        if bad:
            self.runtime.warn(f"epoch {epoch}: {bad:,} curvatures are NaN or infinite; they are kept")
        rounded = float(seen.of(whole["rounded"]).mean())
        if rounded > WARNED:
            self.runtime.warn(
                f"epoch {epoch}: {100 * rounded:.1f} % of the samples have a difference within rounding of zero: "
                "use a larger --h, or --method hvp"
            )
        self._write_arrays(self.folder / f"epoch_{epoch}", columns)
        rows = zip(
            samples.ids.tolist(),
            samples.labels.tolist(),
            *(columns[n].tolist() for n in COLUMNS),
            strict=True,
        )
        files.write_text(self._table(epoch), files.csv_text(["sample_id", "label", *COLUMNS], rows))
        return EpochCurvature(
            **vars(checkpoint),
            statistics={name: statistics(values) for name, values in columns.items()},
            rounded=rounded,
            nonfinite=bad,
        )

    def _write_arrays(self, folder: Path, columns: Mapping[str, np.ndarray]) -> None:
        for name, file in DOCUMENTED.items():
            files.write_array(folder / file, columns[name].astype(np.float32))
        files.write_array(folder / LABELS, self.run.samples.labels.cpu().numpy())

    def headline(self, row: EpochCurvature) -> Mapping[str, float | None]:
        return {"mean_curvature": row.statistics["curvature"]["mean"]}

    def facts(self, _rows: Sequence[EpochCurvature]) -> dict[str, Any]:
        return {"layout": self._execution.layout}

    def finish(self, result: CurvatureResult) -> list[Path]:
        """The top-level arrays, which are the mean over the epochs listed, and the summary."""
        epochs = [each.epoch for each in result.epochs]
        means = {}
        for name, file in DOCUMENTED.items():
            each = [self.folder / f"epoch_{epoch}" / file for epoch in epochs]
            # Where classes came later: the mean over the epochs that a sample has a score at.
            total, scored = cumulative_loss(
                arrays.stream(each, result.samples),
                result.samples,
                skip_unseen=self.run.seen.tasks is not None,
            )
            means[name] = total / np.maximum(scored, 1)
        self._write_arrays(self.folder, means)
        summary = self.folder / f"curvature_summary_{result.dataset}.json"
        write_summary(summary, result)
        tops = [self.folder / name for name in (*DOCUMENTED.values(), LABELS, IDS)]
        return [*(path for epoch in epochs for path in self.files(epoch)), *tops, summary]
