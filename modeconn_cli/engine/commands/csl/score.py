"""`mcx csl score`: loss and gradient norm of every sample at every checkpoint of a run.

Losses are cross-entropies in eval mode on un-augmented images, with the weight decay term that the document adds;
without it they are written beside. From the same logits come the columns of `samples/scores.py`, in one file per epoch.
Source: Ravikumar et al. 2025; the definitions are those of the CSL framework's document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from modeconn_cli.engine.commands.csl.naming import DYNAMICS, IDS, LABEL_NOISE, SUMMARY, VOG, VOGS, RunName
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.results import files, jobs, listing
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import (
    Measure,
    ScoredEpoch,
    score,
    scores,
    write_summary,
)
from modeconn_cli.engine.samples.per_sample import PerSample
from modeconn_cli.engine.samples.scored_run import ScoredRun
from modeconn_cli.engine.samples.vog import Moments, within_classes
from modeconn_cli.engine.settings.csl import CslScoreSettings
from modeconn_cli.engine.training import recorded

DOCUMENTED = 1e-4  # the weight decay of the document's losses


@dataclass(frozen=True, kw_only=True)
class EpochScore(ScoredEpoch):
    """One checkpoint. `shift` is the weight decay term that every loss carries; means are over finite values."""

    shift: float
    mean_loss: float | None
    mean_grad: float | None
    nonfinite: int
    skipped: int  # samples whose class had not been seen
    grad_method: str
    means: dict[str, float | None] = field(default_factory=dict)  # of the columns
    lr: float | None = None  # what the checkpoint says of its optimizer, a learning rate per step


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
    wd_origin: str  # who says so
    epochs: tuple[EpochScore, ...]
    scored: int  # epochs in this run
    samples_per_second: float | None
    output_dir: str
    columns: list[str] | None = None  # of the files dynamics_*.npz
    vog_epochs: list[int] | None = None  # that vog_*.npy is over
    halves: Mapping[str, Any] | None = None  # of a run in two phases


def run(settings: CslScoreSettings, runtime: Runtime) -> CslScoreResult | None:
    """Score the epochs that have not been scored yet."""
    recorded.refuse(settings.output_dir)
    return score(settings, runtime, "csl score", _Losses)


def _named(settings: CslScoreSettings, run: ScoredRun, runtime: Runtime) -> RunName:
    """Names as the settings or the run say, else as documented."""
    if settings.scheme == "short":
        return RunName(run.data.name, None, None)
    run_idx = 1 if settings.run_idx is None else settings.run_idx
    if settings.noise_level is None:
        runtime.note(
            "files are named noise_0.01, the document's default, as nobody says the noise of the run: "
            "--noise-level or --scheme short names them otherwise",
            once=True,
        )
    return RunName(run.data.name, run_idx, 0.01 if settings.noise_level is None else settings.noise_level)


@dataclass(frozen=True)
class Decay:
    """The weight decay term of the loss: wd·Σp² (`seed`), or ½·wd·Σp² (`half`)."""

    wd: float
    form: str
    origin: str

    @classmethod
    def of(cls, settings: CslScoreSettings, run: ScoredRun) -> Decay:
        """The flag's, else what the run was trained with as its optimizer minimised it, else the document's."""
        form = settings.wd_form or "seed"
        if settings.weight_decay is None:
            return cls(DOCUMENTED, form, "the document's, as the run says none; --weight-decay says another")
        if "weight_decay" not in settings.brought:
            return cls(settings.weight_decay, form, "--weight-decay")
        apart = (run.about.settings or {}).get("optimizer") == "adamw"
        origin = "the run's own" + (", which AdamW keeps apart from the loss" if apart else "")
        return cls(settings.weight_decay, form, origin)

    @property
    def factor(self) -> float:
        """Of wd·Σp²."""
        return 1.0 if self.form == "seed" else 0.5

    def words(self) -> str:
        form = f"{self.form}; " if self.wd else ""
        return f"weight decay {self.wd:g} ({form}{self.origin})"


class _Losses(Measure[CslScoreSettings, EpochScore, CslScoreResult]):
    """The losses, the columns of the table and the gradient norms of samples."""

    row, record, ids = EpochScore, CslScoreResult, IDS

    def __init__(self, settings: CslScoreSettings, run: ScoredRun, folder: Path, runtime: Runtime) -> None:
        super().__init__(settings, run, folder, runtime)
        self.named = named = _named(settings, run, runtime)
        self.key = named.key
        self.listed = named.aggregated(listing.STEM, ".csv")  # runs in one folder may have other labels
        self.summary = folder / named.aggregated(SUMMARY, ".json")
        self.label_noise = folder / named.aggregated(LABEL_NOISE, ".csv")
        self.owned = [
            *named.patterns(),
            self.summary.name,
            self.label_noise.name,
            self.listed,
            *(named.aggregated(kind) for kind in VOGS),
        ]  # all runs share the ids
        norm = scores.NORMS.get(settings.grad)
        shape = run.arch.input_shape
        self.fields = {VOG: shape[1:] if settings.compat else shape} if settings.vog else {}
        self._moments = Moments(jobs.private_folder(folder, "csl score", named.key) / "vog.npz")
        self.dynamics = (
            *(column.name for column in scores.COLUMNS),
            *((norm,) if norm else ()),
        )
        self.columns = ("loss", *self.dynamics, *(("loss_grad",) if norm else ()))
        self.decay = Decay.of(settings, run)
        self._lr: float | None = None
        self._decay_terms: tuple[float, float] | None = None

    @cached_property
    def _gradients(self) -> PerSample:
        """The gradients of samples, which are made ready when the first batch asks for them."""
        return PerSample(
            self.run.model,
            self.run.arch.input_shape,
            self.settings.grad,
            inner=self.decay.wd > 0,
            of_label=self.settings.vog,
            note=self.runtime.note,
        )

    def plan(self) -> str:
        run = self.run
        return (
            f"score {len(run.samples):,} samples ({self.settings.split}) of {run.data.name} at "
            f"{len(run.checkpoints)} epochs of {run.arch.model} on {self.runtime.device}: losses with "
            f"{self.decay.words()}, gradient norm: {self.settings.grad}"
        )

    def begin(self, checkpoint: Checkpoint) -> None:
        self._lr = checkpoint.learning_rate
        self._gradients.refresh()
        if self.settings.grad == "param" and self.decay.wd:
            # What ‖∇ℓ + cθ‖² adds to ‖∇ℓ‖²: a factor of ⟨θ, ∇ℓ⟩ and a constant; c is 2·wd, or wd in SGD's form.
            c = 2 * self.decay.wd * self.decay.factor
            self._decay_terms = 2 * c, c * c * self._gradients.square_norm()

    def batch(self, batch: Batch) -> dict[str, Tensor]:
        classes = self.run.seen.classes
        found = self._gradients.score(batch.images, batch.labels, classes)
        columns: dict[str, Tensor] = {"loss": found.losses}
        columns |= scores.of_logits(found.logits, batch.labels, classes)
        if found.of_label is not None:
            columns[VOG] = found.of_label.mean(1) if self.settings.compat else found.of_label
        squares = found.squares
        if squares is not None:
            columns[scores.NORMS[self.settings.grad]] = squares.clamp_min(0.0).sqrt()
            if found.inner is not None and self._decay_terms is not None:
                squares = squares + self._decay_terms[0] * found.inner + self._decay_terms[1]
            columns["loss_grad"] = squares.clamp_min(0.0).sqrt()
        return columns

    def _paths(self, epoch: int) -> dict[str, Path]:
        """The files of an epoch by the kind of their values."""
        kinds = ["loss"]
        kinds += ["loss_ce"] if self.decay.wd else []
        kinds += ["loss_grad"] if self.settings.grad != "none" else []
        return {k: self.folder / self.named.per_epoch(k, epoch) for k in (*kinds, DYNAMICS)}

    def files(self, epoch: int) -> list[Path]:
        return list(self._paths(epoch).values())

    def write(self, checkpoint: ScoredEpoch, whole: Mapping[str, np.ndarray]) -> EpochScore:
        losses, norms = whole["loss"], whole.get("loss_grad")
        if VOG in whole:
            self._moments.add(checkpoint.epoch, whole[VOG])
        squares = sum(float(weights.flat(p).double().square().sum()) for p in self.run.model.parameters())
        shift = self.decay.wd * self.decay.factor * squares
        values = {**whole, "loss": losses + shift, "loss_ce": losses}
        for kind, path in self._paths(checkpoint.epoch).items():
            if kind != DYNAMICS:
                files.write_array(path, np.asarray(values[kind], dtype=np.float32))
                continue
            columns = {name: np.asarray(whole[name], dtype=np.float32) for name in self.dynamics}
            files.write_arrays(path, columns, remember=True)
        wanted = self.run.seen.of(losses)
        told = {
            kind: column for kind, column in whole.items() if kind not in (*self.dynamics, VOG)
        }  # whose NaN are the loss's
        broken = {kind: int((~np.isfinite(self.run.seen.of(column))).sum()) for kind, column in told.items()}
        for kind in (kind for kind, count in broken.items() if count):
            self.runtime.warn(
                f"epoch {checkpoint.epoch}: {broken[kind]:,} values of {kind} are NaN or infinite; they are kept as "
                "they are"
            )
        return EpochScore(
            **vars(checkpoint),
            shift=shift,
            mean_loss=_mean(losses),
            mean_grad=_mean(norms),
            nonfinite=broken["loss"],
            means={name: _mean(whole[name]) for name in self.dynamics},
            lr=self._lr,
            skipped=len(losses) - len(wanted),
            grad_method=self._gradients.method,
        )

    def headline(self, row: EpochScore) -> Mapping[str, float | None]:
        return {"mean_loss": row.mean_loss}

    def facts(self, rows: Sequence[EpochScore]) -> dict[str, Any]:
        return {
            "run_idx": self.named.run_idx,
            "noise_level": self.named.noise,
            "grad_method": rows[-1].grad_method,
            "columns": list(self.dynamics),
            "halves": self.run.about.halves,
            "vog_epochs": self._moments.epochs() if self.fields and self.runtime.group.leader else None,
            "weight_decay": self.decay.wd,
            "wd_form": self.decay.form,
            "wd_origin": self.decay.origin,
        }

    def finish(self, result: CslScoreResult) -> list[Path]:
        flips = self.run.data.flips
        if flips is not None and self.settings.split in ("fit", "val", "all-train"):
            files.write_text(self.label_noise, flips.table())
        made = [self.folder / IDS, self.summary, self.label_noise]
        if self.fields:
            made += self._write_vog()
        write_summary(self.summary, result, by_epoch=False)
        made += [path for each in result.epochs for path in self.files(each.epoch)]
        return [path for path in made if path.exists()]

    def _write_vog(self) -> list[Path]:
        """The variance of gradients of every sample, and the same standardised within its class."""
        vog = self._moments.deviation()
        within = within_classes(vog, self.run.samples.labels.cpu().numpy())
        paths = [self.folder / self.named.aggregated(kind) for kind in VOGS]
        for path, values in zip(paths, (vog, within), strict=True):
            files.write_array(path, values.astype(np.float32))
        return paths


def _mean(values: np.ndarray | None) -> float | None:
    """Take the mean of the finite values; None where there are none."""
    finite = np.array([]) if values is None else values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
