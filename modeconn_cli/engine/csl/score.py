"""`mcx csl score`: loss and gradient norm of every sample at every checkpoint of a run.

Losses are cross-entropies in eval mode on un-augmented images, with the weight decay term that the document adds;
without it they are written beside. Source: Ravikumar et al. 2025; the definitions are those of the CSL framework's
document.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine import files, jobs, names, scoring
from modeconn_cli.engine.csl import arrays
from modeconn_cli.engine.csl.naming import IDS, LABEL_NOISE, SUMMARY, Run
from modeconn_cli.engine.errors import InputError, OutputError, SettingsError, Stopped
from modeconn_cli.engine.per_sample import PerSample, check_independent
from modeconn_cli.engine.records import Record
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.scoring import EpochLog, Subject
from modeconn_cli.engine.settings.csl import CslScoreSettings


@dataclass(frozen=True)
class EpochScore:
    """One checkpoint. `shift` is the weight decay term that every loss carries; means are over finite values."""

    epoch: int
    checkpoint: str
    sha256: str
    size: int
    mtime_ns: int
    sizes: list[int]
    shift: float
    mean_loss: float | None
    mean_grad: float | None
    nonfinite: int
    skipped: int  # samples whose class had not been seen


@dataclass(frozen=True, kw_only=True)
class CslScoreResult(Record):
    schema: ClassVar[str] = "mcx.csl_score/1"

    dataset: str
    run_idx: int | None
    noise_level: float | None
    split: str
    labels: str
    samples: int
    grad: str
    grad_method: str
    weight_decay: float
    wd_form: str
    epochs: tuple[EpochScore, ...]
    scored: int  # epochs in this run
    samples_per_second: float | None
    output_dir: str


def run(settings: CslScoreSettings, runtime: Runtime) -> CslScoreResult | None:
    """Score the epochs that have not been scored yet."""
    if settings.output_dir is None:
        raise SettingsError("no folder for the results", "pass --output-dir DIR")
    chosen = scoring.series(settings, settings.run_idx)
    first = next(iter(chosen.values()))
    subject = scoring.open_subject(settings, first, runtime)
    named = _named(settings, subject, first)
    order = _class_order(settings, subject)
    decayed = (
        f"with weight decay {settings.weight_decay:g}" if settings.weight_decay else "without weight decay"
    )
    if runtime.plan(
        [
            f"score {len(subject.samples):,} samples ({settings.split}) of {subject.data.name} at {len(chosen)} epochs "
            f"of {subject.arch.model} on {runtime.device}: losses {decayed}, gradient norm: {settings.grad}",
            f"results in {settings.output_dir}",
        ]
    ):
        return None
    check_independent(subject.model, scoring.first_batch(subject.samples, settings.batch_size))
    # The range that was found belongs to the record: checkpoints that come later are more work, not other work.
    settings = replace(settings, start_epoch=min(chosen), end_epoch=max(chosen))
    assert settings.output_dir is not None
    with (
        jobs.opened(
            settings,
            settings.output_dir,
            "csl score",
            runtime,
            owned=_owned(named),
            mends=True,
            key=named.key,
        ) as job,
        runtime.catching_signals(),
    ):
        scorer = _Scorer(settings, subject, named, order, job, runtime)
        done = scorer.all(chosen)
        result = CslScoreResult(
            dataset=named.dataset,
            run_idx=named.run_idx,
            noise_level=named.noise,
            split=settings.split,
            labels=settings.labels,
            samples=len(subject.samples),
            grad=settings.grad,
            grad_method=scorer.method,
            weight_decay=settings.weight_decay,
            wd_form=settings.wd_form,
            epochs=tuple(done),
            scored=scorer.scored,
            samples_per_second=scorer.rate,
            output_dir=str(settings.output_dir),
        )
        if not job.complete:
            job.finish(scorer.products(chosen, result))
    return result


def _owned(named: Run) -> list[str]:
    """The ids are shared by all runs in a folder."""
    return [*named.patterns(), named.aggregated(SUMMARY, ".json"), named.aggregated(LABEL_NOISE, ".csv")]


def _named(settings: CslScoreSettings, subject: Subject, first: Path) -> Run:
    """Names as the settings say, else as the run says, else as documented."""
    if settings.scheme == "short":
        return Run(subject.data.name, None, None)
    own = names.noise_of(first)  # the file's name, then what the checkpoint says of its labels
    if own is None and "label_noise" in subject.about:
        own = subject.about["label_noise"] or 0.0
    run_idx = settings.run_idx if settings.run_idx is not None else names.run_of(first)
    noise = settings.noise_level if settings.noise_level is not None else own
    return Run(subject.data.name, 1 if run_idx is None else run_idx, 0.01 if noise is None else noise)


def _class_order(settings: CslScoreSettings, subject: Subject) -> Tensor | None:
    """The classes in the order they were learnt; None where losses are over all classes."""
    if not settings.seen_classes:
        if settings.class_order is not None:
            raise SettingsError("--class-order has a meaning with --seen-classes only")
        return None
    if settings.class_order is None:
        raise SettingsError("--seen-classes needs the order of the classes", "pass --class-order FILE")
    order = np.array(arrays.read(settings.class_order, kinds="iu"), dtype=np.int64)
    if sorted(order.tolist()) != list(range(subject.arch.num_classes)):
        raise InputError(
            f"'{settings.class_order}' is no permutation of the {subject.arch.num_classes} classes"
        )
    return torch.from_numpy(order)


class _Scorer:
    """Goes through the epochs and keeps what is finished."""

    def __init__(
        self,
        settings: CslScoreSettings,
        subject: Subject,
        named: Run,
        order: Tensor | None,
        job: jobs.Job,
        runtime: Runtime,
    ) -> None:
        assert settings.output_dir is not None
        self.settings, self.subject, self.named, self.order = settings, subject, named, order
        self.job, self.runtime, self.folder = job, runtime, settings.output_dir
        self.scored = 0
        self.rate: float | None = None
        self._log = EpochLog(job)
        self._engine: PerSample | None = None

    @property
    def method(self) -> str:
        if self._engine is None:
            return "none" if self.settings.grad == "none" else "as in the run that scored them"
        return self._engine.method

    def all(self, chosen: Mapping[int, Path]) -> list[EpochScore]:
        """Every epoch's score; those of earlier runs are read back."""
        left = [epoch for epoch in chosen if not self._log.kept(epoch, chosen[epoch], self._files(epoch))]
        if left:
            self._write_ids()
        begun, samples = time.perf_counter(), len(self.subject.samples)
        for number, epoch in enumerate(left):
            self._score(epoch, chosen[epoch], number, len(left))
            self.scored += 1
            self.rate = self.scored * samples / (time.perf_counter() - begun)
            self.job.heartbeat()
            self.runtime.progress(
                number + 1, len(left), unit="epoch", epoch=epoch, mean_loss=self._log.rows[epoch]["mean_loss"],
                samples_per_second=round(self.rate),
            )  # fmt: skip
            if self.runtime.stopping() and number + 1 < len(left):
                raise Stopped(f"stopped by a signal after epoch {epoch}", "run the same command again")
        return [EpochScore(**self._log.rows[epoch]) for epoch in chosen]

    def _files(self, epoch: int) -> list[Path]:
        kinds = ["loss"]
        kinds += ["loss_ce"] if self.settings.weight_decay else []
        kinds += ["loss_grad"] if self.settings.grad != "none" else []
        return [self.folder / self.named.per_epoch(kind, epoch) for kind in kinds]  # type: ignore[arg-type]

    def _write_ids(self) -> None:
        ids, path = self.subject.samples.ids.cpu().numpy(), self.folder / IDS
        if path.exists() and not np.array_equal(arrays.read_ids(path), ids):
            raise OutputError(f"'{path}' names other samples than these", "use another --output-dir")
        files.write_array(path, ids)
        flips = self.subject.data.flips
        if flips is not None and self.settings.split in ("fit", "val", "all-train"):
            files.write_text(self.folder / self.named.aggregated(LABEL_NOISE, ".csv"), flips.table())

    def _score(self, epoch: int, path: Path, number: int, count: int) -> None:
        """One checkpoint: its arrays, then its line in the log."""
        stamp = EpochLog.stamp(path)
        self.subject.load(path, self.settings)
        engine = self._ready()
        seen = self._seen(epoch)
        losses, norms = self._pass(engine, seen, number, count)
        every = sum(float(p.detach().double().square().sum()) for p in self.subject.model.parameters())
        factor = self.settings.weight_decay * (1.0 if self.settings.wd_form == "seed" else 0.5)
        shift = factor * every
        written = {"loss": losses + shift}
        if self.settings.weight_decay:
            written["loss_ce"] = losses
        if norms is not None:
            written["loss_grad"] = norms
        for kind, values in written.items():
            files.write_array(self.folder / self.named.per_epoch(kind, epoch), values.astype(np.float32))  # type: ignore[arg-type]
        skipped = 0 if seen is None else int((~seen).sum())
        wanted = losses if seen is None else losses[seen.numpy()]
        nonfinite = int((~np.isfinite(wanted)).sum())
        if nonfinite:
            self.runtime.warn(
                f"epoch {epoch}: {nonfinite:,} losses are NaN or infinite; they are kept as they are"
            )
        self._log.add(
            epoch, stamp, self._files(epoch), shift=shift, mean_loss=_mean(losses), mean_grad=_mean(norms),
            nonfinite=nonfinite, skipped=skipped,
        )  # fmt: skip

    def _ready(self) -> PerSample:
        if self._engine is None:
            self._engine = PerSample(
                self.subject.model,
                self.subject.arch.input_shape,
                self.settings.grad,
                inner=self.settings.weight_decay > 0,
                note=self.runtime.note,
            )
        else:
            self._engine.refresh()
        return self._engine

    def _seen(self, epoch: int) -> Tensor | None:
        """Whether each sample's class had been learnt by an epoch, [N]."""
        if self.order is None:
            return None
        self._classes = self._classes_at(epoch)
        return torch.isin(self.subject.samples.labels.cpu(), self._classes)

    def _classes_at(self, epoch: int) -> Tensor:
        """The classes of the tasks that an epoch belongs to or comes after, ascending."""
        assert self.order is not None
        tasks = max(1, -(-epoch // self.settings.epochs_per_task))
        return self.order[: tasks * self.settings.classes_per_task].sort().values

    def _pass(
        self, engine: PerSample, seen: Tensor | None, number: int, count: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Cross-entropies and gradient norms, float64 [N]; NaN where the class has not been seen."""
        samples = self.subject.samples
        rows = torch.arange(len(samples)) if seen is None else seen.nonzero()[:, 0]
        classes = None if seen is None else self._classes.to(samples.device)
        part = samples if seen is None else samples.take(rows.to(samples.device))
        losses = np.full(len(samples), np.nan)
        norms = None if self.settings.grad == "none" else np.full(len(samples), np.nan)
        decay = self._decay(engine)
        at = 0
        for batch in part.batches(self.settings.batch_size):
            found = engine.score(batch.images, batch.labels, classes)
            these = rows[at : at + len(batch)].numpy()
            losses[these] = found.losses.numpy()
            if norms is not None and found.squares is not None:
                squares = found.squares.numpy()
                if found.inner is not None and decay is not None:
                    squares = squares + decay[0] * found.inner.numpy() + decay[1]
                norms[these] = np.sqrt(np.maximum(squares, 0.0))
            at += len(batch)
            self.runtime.progress(number * len(samples) + at, count * len(samples), unit="step")
            if self.runtime.stopping():
                raise Stopped(f"stopped by a signal after {self.scored} epochs", "run the same command again")
        return losses, norms

    def _decay(self, engine: PerSample) -> tuple[float, float] | None:
        """What ‖∇ℓ + cθ‖² adds to ‖∇ℓ‖²: a factor of ⟨θ, ∇ℓ⟩ and a constant; c is 2·wd, or wd in SGD's form."""
        if self.settings.grad != "param" or not self.settings.weight_decay:
            return None
        c = self.settings.weight_decay * (2.0 if self.settings.wd_form == "seed" else 1.0)
        return 2 * c, c * c * engine.square_norm()

    def products(self, chosen: Mapping[int, Path], result: CslScoreResult) -> list[Path]:
        """Write the summary; every file of the job."""
        summary = self.folder / self.named.aggregated(SUMMARY, ".json")
        files.write_json(summary, result.document())
        made = [self.folder / IDS, summary, self.folder / self.named.aggregated(LABEL_NOISE, ".csv")]
        made += [path for epoch in chosen for path in self._files(epoch)]
        return [path for path in made if path.exists()]


def _mean(values: np.ndarray | None) -> float | None:
    if values is None:
        return None
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
