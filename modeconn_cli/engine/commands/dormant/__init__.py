"""`mcx dormant`: the share of units that every sample leaves inactive, at one checkpoint or many.

The documented proportion looks at the outputs of convolutions and linear layers, before normalisation and
nonlinearity, the output layer included; beside it stands the proportion after each nonlinearity (Sokar et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from modeconn_cli.engine.commands.dormant import figures
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.activations import layers
from modeconn_cli.engine.networks.activations.layers import LayerDormancy
from modeconn_cli.engine.networks.activations.observe import observer
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.figures import about
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import Measure, ScoredEpoch, score, write_summary
from modeconn_cli.engine.samples.scored_run import ScoredRun
from modeconn_cli.engine.settings.dormant import DormantSettings
from modeconn_cli.engine.statistics import statistics

DOCUMENTED = {"pre": "dormant_props_epoch_{}.npy", "post": "dormant_post_epoch_{}.npy"}
IDS, LABELS, LAYERS = "sample_ids_epoch_{}.npy", "labels_epoch_{}.npy", "dormant_layers_epoch_{}.csv"
FIGURE = "dormant_evolution.png"
SUMS = ("dormant", "total", "active")


@dataclass(frozen=True, kw_only=True)
class EpochDormancy(ScoredEpoch):
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
    return score(settings, runtime, "dormant", _Dormancies)


class _Dormancies(Measure[DormantSettings, EpochDormancy, DormantResult]):
    """The share of units that a sample leaves inactive, `pre` and `post` nonlinearities."""

    row, record = EpochDormancy, DormantResult
    owned = ("dormant_*", IDS.format("*"), LABELS.format("*"))

    def __init__(self, settings: DormantSettings, run: ScoredRun, folder: Path, runtime: Runtime) -> None:
        super().__init__(settings, run, folder, runtime)
        example = next(iter(run.samples.batches(2))).images
        self._observe = observer(
            run.model, example, eps=settings.eps, wanted=settings.site, note=runtime.note
        )
        units = {
            kind: [each.units for each in self._observe.layers if each.kind == kind] for kind in DOCUMENTED
        }
        self._units = {kind: sum(of_layers) for kind, of_layers in units.items() if of_layers}
        self.columns = tuple(self._units)

    def plan(self) -> str:
        run = self.run
        return (
            f"dormant units of {len(run.samples):,} samples ({self.settings.split}) of {run.data.name} at "
            f"{len(run.checkpoints)} epochs of {run.arch.model} on {self.runtime.device}: "
            f"{' and '.join(f'{count:,} units {kind}' for kind, count in self._units.items())} activation"
        )

    def batch(self, batch: Batch) -> dict[str, Tensor]:
        seen = self._observe(batch.images)
        return {name: getattr(seen, name) for name in (*self.columns, *SUMS)}

    def _named(self, name: str, epoch: int) -> Path:
        return self.folder / name.format(epoch)

    def files(self, epoch: int) -> list[Path]:
        made = [*(DOCUMENTED[kind] for kind in self.columns), IDS, LABELS, LAYERS]
        return [self._named(name, epoch) for name in made]

    def write(self, checkpoint: ScoredEpoch, whole: Mapping[str, np.ndarray]) -> EpochDormancy:
        epoch, samples, settings = checkpoint.epoch, self.run.samples, self.settings
        columns = {kind: whole[kind] for kind in self.columns}
        for kind, values in columns.items():
            files.write_array(self._named(DOCUMENTED[kind], epoch), values.astype(np.float32))
        files.write_array(self._named(IDS, epoch), samples.ids.cpu().numpy())
        files.write_array(self._named(LABELS, epoch), samples.labels.cpu().numpy())
        scored = [self.run.seen.of(values) for values in columns.values()]
        rows = layers.dormancies(
            self._observe.layers, whole, len(scored[0]), tau=settings.tau,
            threshold=settings.dormant_unit_threshold,
        )  # fmt: skip
        files.write_text(self._named(LAYERS, epoch), layers.table(rows))
        bad = int((~np.isfinite(scored)).any(axis=0).sum())
        if bad:
            self.runtime.warn(f"epoch {epoch}: {bad:,} samples have NaN activations, and so no proportion")
        of_kind = {kind: statistics(values) for kind, values in columns.items()}
        after = [row for row in rows if row.site == self.columns[-1]]
        return EpochDormancy(
            **vars(checkpoint),
            pre=of_kind.get("pre"),
            post=of_kind.get("post"),
            never=layers.share(after, "never"),
            tau_dormant=layers.share(after, "tau_dormant"),
            frequency_dormant=layers.share(after, "frequency_dormant"),
            nonfinite=bad,
        )

    def headline(self, row: EpochDormancy) -> Mapping[str, float | None]:
        return {f"mean_{kind}": getattr(row, kind)["mean"] for kind in self.columns}

    def _layers(self, epoch: int) -> list[LayerDormancy]:
        return layers.parse(self._named(LAYERS, epoch).read_text("utf-8"))

    @property
    def _figure(self) -> Path:
        return self.folder / self.settings.named(FIGURE)

    def _by_layer(self, epochs: Sequence[int]) -> dict[str, dict[str, list[float]]]:
        """kind -> the layer as a figure names it -> its share at every epoch."""
        tables = [self._layers(epoch) for epoch in epochs]
        out: dict[str, dict[str, list[float]]] = {kind: {} for kind in self.columns}
        for k, layer in enumerate(self._observe.layers):
            own = out[layer.kind]
            name = layer.behind if layer.behind and layer.behind not in own else layer.name
            own[name] = [table[k].proportion for table in tables]
        return out

    def facts(self, rows: Sequence[EpochDormancy]) -> dict[str, Any]:
        return {
            "units": self._units,
            "layers": tuple(self._layers(rows[-1].epoch)),
            "figure": str(self._figure),
        }

    def finish(self, result: DormantResult) -> list[Path]:
        epochs = [each.epoch for each in result.epochs]
        shares = {kind: [getattr(each, kind) for each in result.epochs] for kind in self.columns}
        title = f"Dormant units: {about(self.run.arch.model, result.dataset, [*epochs, None])}"
        picture = figures.evolution(epochs, shares, self._by_layer(epochs), title, self.settings)
        files.atomic_write(self._figure, picture)
        summary = self.folder / f"dormant_summary_{result.dataset}.json"
        write_summary(summary, result)
        return [*(path for epoch in epochs for path in self.files(epoch)), self._figure, summary]
