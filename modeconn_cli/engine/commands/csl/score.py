"""`mcx csl score`: loss and gradient norm of every sample at every checkpoint of a run.

Losses are cross-entropies in eval mode on un-augmented images, with the weight decay term that the document adds;
without it they are written beside. Source: Ravikumar et al. 2025; the definitions are those of the CSL framework's
document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from modeconn_cli.engine import names
from modeconn_cli.engine import samples as scoring
from modeconn_cli.engine.commands.csl.naming import IDS, LABEL_NOISE, SUMMARY, Kind, Run
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import Epoch, Part, Seen, Subject, Sweep
from modeconn_cli.engine.samples.per_sample import PerSample
from modeconn_cli.engine.settings.csl import CslScoreSettings


@dataclass(frozen=True, kw_only=True)
class EpochScore(Epoch):
    """One checkpoint. `shift` is the weight decay term that every loss carries; means are over finite values."""

    shift: float
    mean_loss: float | None
    mean_grad: float | None
    nonfinite: int
    skipped: int  # samples whose class had not been seen
    grad_method: str


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
    chosen = scoring.chosen_checkpoints(settings, runtime, settings.run_idx)
    first = next(iter(chosen.values()))
    subject = scoring.open_subject(settings, first, runtime)
    named = _named(settings, subject, first)
    seen = scoring.seen_classes(settings, subject, runtime)
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
    # The range that was found belongs to the record: checkpoints that come later are more work, not other work.
    settings = replace(settings, start_epoch=min(chosen), end_epoch=max(chosen))
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(
            settings,
            settings.output_dir,
            "csl score",
            runtime,
            owned=_owned(named),
            mends=True,
            key=named.key,
        ) as job,
    ):
        measure = _Losses(settings, subject, named, seen, runtime)
        if not job.complete:
            measure.write_once()
        sweep = Sweep(settings, subject, measure, job, runtime)
        rows = sweep.run(chosen)
        result = CslScoreResult(
            dataset=named.dataset,
            run_idx=named.run_idx,
            noise_level=named.noise,
            split=settings.split,
            labels=settings.labels,
            samples=len(subject.samples),
            grad=settings.grad,
            grad_method=rows[-1]["grad_method"],
            weight_decay=settings.weight_decay,
            wd_form=settings.wd_form,
            epochs=tuple(EpochScore(**row) for row in rows),
            scored=sweep.scored,
            samples_per_second=sweep.rate,
            output_dir=str(settings.output_dir),
        )
        if not job.complete:
            job.finish(measure.products(result))
    return result


def _owned(named: Run) -> list[str]:
    """The ids are shared by all runs in a folder."""
    return [*named.patterns(), named.aggregated(SUMMARY, ".json"), named.aggregated(LABEL_NOISE, ".csv")]


def _named(settings: CslScoreSettings, subject: Subject, first: Path) -> Run:
    """Names as the settings say, else as the run says, else as documented."""
    if settings.scheme == "short":
        return Run(subject.data.name, None, None)
    own = names.noise_of(first)  # the file's name, then what the checkpoint says of its labels
    if own is None and subject.about.data is not None:
        own = subject.about.data.label_noise or 0.0
    run_idx = settings.run_idx if settings.run_idx is not None else names.run_of(first)
    noise = settings.noise_level if settings.noise_level is not None else own
    return Run(subject.data.name, 1 if run_idx is None else run_idx, 0.01 if noise is None else noise)


class _Losses:
    """Losses and gradient norms of samples under the subject's present weights, and the files they go to."""

    def __init__(
        self, settings: CslScoreSettings, subject: Subject, named: Run, seen: Seen, runtime: Runtime
    ) -> None:
        self.settings, self.subject, self.named, self.seen = settings, subject, named, seen
        self.runtime, self.folder = runtime, settings.output_dir
        self.columns = ("losses",) if settings.grad == "none" else ("losses", "norms")
        self._engine: PerSample | None = None
        self._decay: tuple[float, float] | None = None

    def files(self, epoch: int) -> list[Path]:
        kinds: list[Kind] = ["loss"]
        kinds += ["loss_ce"] if self.settings.weight_decay else []
        kinds += ["loss_grad"] if self.settings.grad != "none" else []
        return [self.folder / self.named.per_epoch(kind, epoch) for kind in kinds]

    def write_once(self) -> None:
        """What all epochs share: ids and flipped labels."""
        scoring.write_ids(self.folder / IDS, self.subject)
        flips = self.subject.data.flips
        if flips is not None and self.settings.split in ("fit", "val", "all-train"):
            files.write_text(self.folder / self.named.aggregated(LABEL_NOISE, ".csv"), flips.table())

    def begin(self, epoch: int) -> Tensor | None:
        engine = self._ready()
        engine.refresh()
        self._decay = self._decay_terms(engine)
        return self.seen.begin(epoch)

    def batch(self, batch: Batch) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        found = self._ready().score(batch.images, batch.labels, self.seen.classes)
        columns = {"losses": found.losses}
        squares = found.squares
        if squares is not None:
            if found.inner is not None and self._decay is not None:
                squares = squares + self._decay[0] * found.inner + self._decay[1]
            columns["norms"] = squares.clamp_min(0.0).sqrt()
        return columns, {}

    def write(self, epoch: int, whole: Part) -> dict[str, Any]:
        losses, norms = whole.columns["losses"], whole.columns.get("norms")
        squares = sum(float(p.detach().double().square().sum()) for p in self.subject.model.parameters())
        shift = self.settings.weight_decay * (1.0 if self.settings.wd_form == "seed" else 0.5) * squares
        written: dict[Kind, np.ndarray] = {"loss": losses + shift}
        if self.settings.weight_decay:
            written["loss_ce"] = losses
        if norms is not None:
            written["loss_grad"] = norms
        for kind, values in written.items():
            files.write_array(self.folder / self.named.per_epoch(kind, epoch), values.astype(np.float32))
        wanted = losses if self.seen.chosen is None else losses[self.seen.chosen.numpy()]
        nonfinite = int((~np.isfinite(wanted)).sum())
        if nonfinite:
            self.runtime.warn(
                f"epoch {epoch}: {nonfinite:,} losses are NaN or infinite; they are kept as they are"
            )
        return {
            "shift": shift,
            "mean_loss": _mean(losses),
            "mean_grad": _mean(norms),
            "nonfinite": nonfinite,
            "skipped": len(losses) - len(wanted),
            "grad_method": self._ready().method,
        }

    def headline(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {"mean_loss": facts["mean_loss"]}

    def _ready(self) -> PerSample:
        """The engine; it is made for the first epoch's first batch."""
        if self._engine is None:
            self._engine = PerSample(
                self.subject.model,
                self.subject.arch.input_shape,
                self.settings.grad,
                inner=self.settings.weight_decay > 0,
                note=self.runtime.note,
            )
        return self._engine

    def _decay_terms(self, engine: PerSample) -> tuple[float, float] | None:
        """What ‖∇ℓ + cθ‖² adds to ‖∇ℓ‖²: a factor of ⟨θ, ∇ℓ⟩ and a constant; c is 2·wd, or wd in SGD's form."""
        if self.settings.grad != "param" or not self.settings.weight_decay:
            return None
        c = self.settings.weight_decay * (2.0 if self.settings.wd_form == "seed" else 1.0)
        return 2 * c, c * c * engine.square_norm()

    def products(self, result: CslScoreResult) -> list[Path]:
        """Write the summary; every file of the job."""
        summary = self.folder / self.named.aggregated(SUMMARY, ".json")
        scoring.write_summary(summary, result, by_epoch=False)
        made = [self.folder / IDS, summary, self.folder / self.named.aggregated(LABEL_NOISE, ".csv")]
        made += [path for each in result.epochs for path in self.files(each.epoch)]
        return [path for path in made if path.exists()]


def _mean(values: np.ndarray | None) -> float | None:
    if values is None:
        return None
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
