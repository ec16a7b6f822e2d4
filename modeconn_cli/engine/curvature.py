"""`mcx curvature`: curvature of every sample's loss around its input, at one checkpoint or many.

Source: Garg et al. 2024, arXiv:2307.05831; raw units under the documented names, the true scale beside them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from modeconn_cli.engine import checkpoints, files, jobs, names, scoring
from modeconn_cli.engine.csl import arrays
from modeconn_cli.engine.csl.metrics import cumulative_loss
from modeconn_cli.engine.errors import SettingsError, Stopped
from modeconn_cli.engine.per_sample import check_independent
from modeconn_cli.engine.per_sample.curvature import Curvature, measure
from modeconn_cli.engine.records import Record
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.scoring import EpochLog, Subject
from modeconn_cli.engine.settings.curvature import CurvatureSettings

DOCUMENTED = {"curvature": "per_image_curvature.npy", "directional_eig": "per_image_directional_eig.npy"}
LABELS, IDS = "per_image_labels.npy", "sample_ids.npy"
COLUMNS = ("curvature", "directional_eig", "hvp_norm", "trace", "trace_stderr")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class EpochCurvature:
    """One checkpoint. `statistics`: column -> mean, std and quantiles over finite values."""

    epoch: int
    statistics: dict[str, dict[str, float | None]]
    rounded: float  # share of samples with a difference within rounding of zero
    nonfinite: int
    checkpoint: str
    sha256: str
    size: int
    mtime_ns: int
    sizes: list[int]


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
    if folder is None:
        raise SettingsError("no folder for the results", "pass --save-dir DIR")
    chosen = _chosen(settings)
    subject = scoring.open_subject(settings, next(iter(chosen.values())), runtime)
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
    check_independent(subject.model, scoring.first_batch(subject.samples, settings.batch_size))
    settings = replace(settings, start_epoch=min(chosen), end_epoch=max(chosen))
    owned = ["per_image_*.npy", "epoch_*/*.npy", "curvature_results_*.csv", "curvature_summary_*.json", IDS]
    with (
        jobs.opened(settings, folder, "curvature", runtime, owned=owned, mends=True) as job,
        runtime.catching_signals(),
    ):
        scorer = _Scorer(settings, subject, folder, job, runtime)
        epochs = scorer.all(chosen)
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
            layout="contiguous (NCHW)",
            epochs=epochs,
            scored=scorer.scored,
            output_dir=str(folder),
        )
        if not job.complete:
            job.finish(scorer.finish(chosen, result))
    return result


def _chosen(settings: CurvatureSettings) -> dict[int, Path]:
    """epoch -> checkpoint. Raises SettingsError where neither or both of file and folder are given."""
    if (settings.checkpoint is None) == (settings.checkpoint_dir is None):
        raise SettingsError(
            "give either one checkpoint or a folder of them", "pass --checkpoint or --checkpoint-dir"
        )
    if settings.checkpoint is None:
        return scoring.series(settings)
    epoch = names.epoch_of(settings.checkpoint)
    if epoch is None:
        epoch = checkpoints.read(
            settings.checkpoint, state_key=settings.state_key, allow_nonfinite=True
        ).epoch
    return {epoch or 0: settings.checkpoint}


class _Scorer:
    """Goes through the epochs and keeps what is finished."""

    def __init__(
        self, settings: CurvatureSettings, subject: Subject, folder: Path, job: jobs.Job, runtime: Runtime
    ) -> None:
        self.settings, self.subject, self.folder = settings, subject, folder
        self.job, self.runtime = job, runtime
        self.scored = 0
        self._log = EpochLog(job)

    def all(self, chosen: Mapping[int, Path]) -> tuple[EpochCurvature, ...]:
        left = [epoch for epoch in chosen if not self._log.kept(epoch, chosen[epoch], self._files(epoch))]
        for number, epoch in enumerate(left):
            self._score(epoch, chosen[epoch], number, len(left))
            self.scored += 1
            self.job.heartbeat()
            mean = self._log.rows[epoch]["statistics"]["curvature"]["mean"]
            self.runtime.progress(number + 1, len(left), unit="epoch", epoch=epoch, mean_curvature=mean)
            if self.runtime.stopping() and number + 1 < len(left):
                raise Stopped(f"stopped by a signal after epoch {epoch}", "run the same command again")
        return tuple(EpochCurvature(**self._log.rows[epoch]) for epoch in chosen)

    def _files(self, epoch: int) -> list[Path]:
        place = self.folder / f"epoch_{epoch}"
        return [*(place / name for name in (*DOCUMENTED.values(), LABELS)), self._table(epoch)]

    def _table(self, epoch: int) -> Path:
        return self.folder / f"curvature_results_{self.subject.data.name}_{epoch}.csv"

    def _score(self, epoch: int, path: Path, number: int, count: int) -> None:
        """One checkpoint: its arrays and its table, then its line in the log."""
        stamp = EpochLog.stamp(path)
        self.subject.load(path, self.settings)
        found = self._pass(number, count)
        columns = {name: getattr(found, name).numpy() for name in COLUMNS}
        bad = ~np.isfinite(columns["curvature"])
        if bad.any():
            self.runtime.warn(
                f"epoch {epoch}: {int(bad.sum()):,} curvatures are NaN or infinite; they are kept"
            )
        rounded = float(found.rounded.double().mean())
        if rounded > 0:
            self.runtime.warn(
                f"epoch {epoch}: {100 * rounded:.1f} % of the samples have a difference within rounding of zero: "
                "use a larger --h, or --method hvp"
            )
        place = self.folder / f"epoch_{epoch}"
        for name, file in DOCUMENTED.items():
            files.write_array(place / file, columns[name].astype(np.float32))
        files.write_array(place / LABELS, self.subject.samples.labels.cpu().numpy())
        files.write_text(self._table(epoch), self._rows(columns))
        statistics = {name: _statistics(values) for name, values in columns.items()}
        self._log.add(
            epoch, stamp, self._files(epoch), statistics=statistics, rounded=rounded, nonfinite=int(bad.sum())
        )

    def _pass(self, number: int, count: int) -> Curvature:
        settings, samples = self.settings, self.subject.samples
        parts, at = [], 0
        for batch in samples.batches(settings.batch_size):
            part = measure(
                self.subject.model, batch.images, batch.labels, batch.ids, h=settings.h, draws=settings.niter,
                temperature=settings.temp, seed=settings.seed, method=settings.method,
            )  # fmt: skip
            if settings.compat == "garg":
                # The gradient of the batch's mean loss: each sample's own, divided by the size of its batch.
                own, along = part.curvature / len(batch), part.directional_eig / len(batch)
                part = replace(part, curvature=own, directional_eig=along)
            parts.append(part)
            at += len(batch)
            self.runtime.progress(number * len(samples) + at, count * len(samples), unit="step")
            if self.runtime.stopping():
                raise Stopped(f"stopped by a signal after {self.scored} epochs", "run the same command again")
        return Curvature(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Curvature)))

    def _rows(self, columns: Mapping[str, np.ndarray]) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["sample_id", "label", *COLUMNS])
        samples = self.subject.samples
        values = (columns[name].tolist() for name in COLUMNS)
        writer.writerows(zip(samples.ids.tolist(), samples.labels.tolist(), *values, strict=True))
        return out.getvalue()

    def finish(self, chosen: Mapping[int, Path], result: CurvatureResult) -> list[Path]:
        """The top-level arrays (the mean over epochs, where there are several), ids and summary; all files."""
        made = [path for epoch in chosen for path in self._files(epoch)]
        for name in DOCUMENTED.values():
            each = [self.folder / f"epoch_{epoch}" / name for epoch in chosen]
            count = len(self.subject.samples)
            total, _ = cumulative_loss(arrays.stream(each, count), count)
            files.write_array(self.folder / name, (total / len(chosen)).astype(np.float32))
            made.append(self.folder / name)
        files.write_array(self.folder / LABELS, self.subject.samples.labels.cpu().numpy())
        files.write_array(self.folder / IDS, self.subject.samples.ids.cpu().numpy())
        summary = self.folder / f"curvature_summary_{self.subject.data.name}.json"
        document: dict[str, Any] = result.document()
        document["epochs"] = {str(each.epoch): vars(each) for each in result.epochs}
        files.write_json(summary, document)
        return [*made, self.folder / LABELS, self.folder / IDS, summary]


def _statistics(values: np.ndarray) -> dict[str, float | None]:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return dict.fromkeys(("mean", "std", *(f"q{100 * q:g}" for q in QUANTILES)))
    quantiles = np.quantile(finite, QUANTILES)
    return {
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        **{f"q{100 * q:g}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
    }
