"""`mcx dormant`: the share of units that every sample leaves inactive, at one checkpoint or many.

The documented proportion looks at the outputs of convolutions and linear layers, before normalisation and
nonlinearity, the output layer included; beside it stands the proportion after each nonlinearity (Sokar et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from modeconn_cli.engine import samples as scoring
from modeconn_cli.engine.commands.dormant import figures
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.activations import layers
from modeconn_cli.engine.networks.activations.layers import LayerDormancy
from modeconn_cli.engine.networks.activations.observe import observer
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import Epoch, Part, Seen, Subject, Sweep
from modeconn_cli.engine.settings.dormant import DormantSettings
from modeconn_cli.engine.statistics import statistics

DOCUMENTED = {"pre": "dormant_props_epoch_{}.npy", "post": "dormant_post_epoch_{}.npy"}
IDS, LABELS, LAYERS = "sample_ids_epoch_{}.npy", "labels_epoch_{}.npy", "dormant_layers_epoch_{}.csv"
FIGURE = "dormant_evolution.png"
SUMS = ("dormant", "total", "active")


@dataclass(frozen=True, kw_only=True)
class EpochDormancy(Epoch):
    """One checkpoint. `pre` and `post`: mean, std and quantiles of the samples' proportions.

    Shares of the units of all layers: `never` dormant on every sample (after nonlinearities, at the documented sites
    where there are none), `tau_dormant` and `frequency_dormant`; None where they have no meaning.
    """

    pre: dict[str, float | None] | None
    post: dict[str, float | None] | None
    never: float | None
    tau_dormant: float | None
    frequency_dormant: float | None
    nonfinite: int


@dataclass(frozen=True, kw_only=True)
class DormantResult(Record):
    schema: ClassVar[str] = "mcx.dormant/1"

    dataset: str
    split: str
    samples: int
    site: str
    eps: float
    tau: float
    dormant_unit_threshold: float
    units: Mapping[str, int]  # pre, post: of all layers
    epochs: tuple[EpochDormancy, ...]
    layers: tuple[LayerDormancy, ...]  # of the last epoch
    scored: int  # epochs in this run
    samples_per_second: float | None
    figure: str
    output_dir: str


def run(settings: DormantSettings, runtime: Runtime) -> DormantResult | None:
    """Score the epochs that have not been scored yet."""
    folder = settings.output_dir
    chosen = scoring.chosen_checkpoints(settings, runtime)
    subject = scoring.open_subject(settings, next(iter(chosen.values())), runtime)
    seen = scoring.seen_classes(settings, subject, runtime)
    measure = _Dormancies(settings, subject, folder, seen, runtime)
    if runtime.plan(
        [
            f"dormant units of {len(subject.samples):,} samples ({settings.split}) of {subject.data.name} at "
            f"{len(chosen)} epochs of {subject.arch.model} on {runtime.device}: "
            f"{' and '.join(f'{count:,} units {kind}' for kind, count in measure.units.items())} activation",
            f"results in {folder}",
        ]
    ):
        return None
    settings = replace(settings, start_epoch=min(chosen), end_epoch=max(chosen))
    owned = ["dormant_*", IDS.format("*"), LABELS.format("*")]
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(settings, folder, "dormant", runtime, owned=owned, mends=True) as job,
    ):
        sweep = Sweep(settings, subject, measure, job, runtime)
        epochs = tuple(EpochDormancy(**row) for row in sweep.run(chosen))
        last = folder / LAYERS.format(epochs[-1].epoch)
        result = DormantResult(
            dataset=subject.data.name,
            split=settings.split,
            samples=len(subject.samples),
            site=settings.site,
            eps=settings.eps,
            tau=settings.tau,
            dormant_unit_threshold=settings.dormant_unit_threshold,
            units=measure.units,
            epochs=epochs,
            layers=tuple(layers.parse(last.read_text("utf-8"))),
            scored=sweep.scored,
            samples_per_second=sweep.rate,
            figure=str(folder / FIGURE),
            output_dir=str(folder),
        )
        if not job.complete:
            job.finish(measure.products(result))
    return result


class _Dormancies:
    """Dormant shares of samples under the subject's present weights, and the files they go to."""

    def __init__(
        self, settings: DormantSettings, subject: Subject, folder: Path, seen: Seen, runtime: Runtime
    ) -> None:
        self.settings, self.subject, self.folder, self.runtime = settings, subject, folder, runtime
        self.seen = seen
        example = next(iter(subject.samples.batches(2))).images
        self._observe = observer(
            subject.model, example, eps=settings.eps, wanted=settings.site, note=runtime.note
        )
        kinds = [layer.kind for layer in self._observe.layers]
        self.columns = tuple(kind for kind in ("pre", "post") if kind in kinds)
        self.units: dict[str, int] = {
            kind: sum(layer.units for layer in self._observe.layers if layer.kind == kind)
            for kind in self.columns
        }

    def files(self, epoch: int) -> list[Path]:
        made = [*(DOCUMENTED[kind] for kind in self.columns), IDS, LABELS, LAYERS]
        return [self.folder / name.format(epoch) for name in made]

    def begin(self, epoch: int) -> Tensor | None:
        return self.seen.begin(epoch)

    def batch(self, batch: Batch) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        seen = self._observe(batch.images)
        return {name: getattr(seen, name) for name in self.columns}, {n: getattr(seen, n) for n in SUMS}

    def write(self, epoch: int, whole: Part) -> dict[str, Any]:
        samples, settings = self.subject.samples, self.settings
        for kind in self.columns:
            path = self.folder / DOCUMENTED[kind].format(epoch)
            files.write_array(path, whole.columns[kind].astype(np.float32))
        files.write_array(self.folder / IDS.format(epoch), samples.ids.cpu().numpy())
        files.write_array(self.folder / LABELS.format(epoch), samples.labels.cpu().numpy())
        rows = layers.dormancies(
            self._observe.layers, whole.sums, self.seen.count, tau=settings.tau,
            threshold=settings.dormant_unit_threshold,
        )  # fmt: skip
        files.write_text(self.folder / LAYERS.format(epoch), layers.table(rows))
        chosen = slice(None) if self.seen.chosen is None else self.seen.chosen.numpy()
        bad = int(np.any([~np.isfinite(whole.columns[kind][chosen]) for kind in self.columns], axis=0).sum())
        if bad:
            self.runtime.warn(f"epoch {epoch}: {bad:,} samples have NaN activations, and so no proportion")
        after = [row for row in rows if row.site == self.columns[-1]]
        return {
            **{
                kind: statistics(whole.columns[kind]) if kind in self.columns else None for kind in DOCUMENTED
            },
            "never": layers.share(after, "never"),
            "tau_dormant": layers.share(after, "tau_dormant"),
            "frequency_dormant": layers.share(after, "frequency_dormant"),
            "nonfinite": bad,
        }

    def headline(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {f"mean_{kind}": facts[kind]["mean"] for kind in self.columns}

    def products(self, result: DormantResult) -> list[Path]:
        """The summary and the figure; every file of the job."""
        epochs = [each.epoch for each in result.epochs]
        tables = [layers.parse((self.folder / LAYERS.format(epoch)).read_text("utf-8")) for epoch in epochs]
        files.atomic_write(self.folder / FIGURE, figures.evolution(epochs, _statistics(result), tables))
        summary = self.folder / f"dormant_summary_{self.subject.data.name}.json"
        scoring.write_summary(summary, result)
        return [*(path for epoch in epochs for path in self.files(epoch)), self.folder / FIGURE, summary]


def _statistics(result: DormantResult) -> dict[str, Sequence[Mapping[str, float | None]]]:
    """Per kind of site, the statistics of every epoch."""
    found = {kind: [getattr(each, kind) for each in result.epochs] for kind in DOCUMENTED}
    return {kind: rows for kind, rows in found.items() if rows[0] is not None}
