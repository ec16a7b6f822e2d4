"""`mcx dormant`: the share of units that every sample leaves inactive, at one checkpoint or many.

The documented proportion looks at the outputs of convolutions and linear layers, before normalisation and
nonlinearity, the output layer included; beside it stands the proportion after each nonlinearity (Sokar et al. 2023).
The same pass takes the ranks of every layer's features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from modeconn_cli.engine.commands.dormant import figures
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.activations import layers, ranks
from modeconn_cli.engine.networks.activations.layers import LayerDormancy
from modeconn_cli.engine.networks.activations.observe import observer
from modeconn_cli.engine.networks.activations.ranks import Ranks
from modeconn_cli.engine.networks.activations.sites import Layer
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.figures import about
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.samples import Measure, ScoredEpoch, score, write_summary
from modeconn_cli.engine.samples.scored_run import ScoredRun
from modeconn_cli.engine.samples.seen import own_tasks
from modeconn_cli.engine.samples.sweep import UNIT
from modeconn_cli.engine.settings.dormant import DormantSettings
from modeconn_cli.engine.statistics import statistics

DOCUMENTED = {"pre": "dormant_props_epoch_{}.npy", "post": "dormant_post_epoch_{}.npy"}
IDS, LABELS, LAYERS = "sample_ids_epoch_{}.npy", "labels_epoch_{}.npy", "dormant_layers_epoch_{}.csv"
FIGURE, RANKS_FIGURE = "dormant_evolution.png", "dormant_ranks.png"
SUMS = ("dormant", "total", "active")
RANKED_SUMS = ("grams", "norms")
RANK_BYTES = 4 << 30  # of the sums that ranks are made of, which lie on the disk until their epoch is whole
RANKS = tuple(field.name for field in fields(Ranks))


@dataclass(frozen=True, kw_only=True)
class EpochDormancy(ScoredEpoch):
    """One checkpoint. `pre` and `post`: mean, std and quantiles of the samples' proportions.

    Shares of the units of all layers: `never` dormant on every sample (after nonlinearities, at the documented sites
    where there are none), `tau_dormant` and `frequency_dormant`; None where they have no meaning. `ranks` are those of
    the last hidden layer by name, None where none are taken.
    """

    pre: dict[str, float | None] | None
    post: dict[str, float | None] | None
    never: float | None
    tau_dormant: float | None
    frequency_dormant: float | None
    nonfinite: int
    ranks: dict[str, float | None] | None = None


@dataclass(frozen=True, kw_only=True)
class TaskRanks:
    """The last scored epoch of a task of a run that learnt its classes task by task: the ranks of every layer then."""

    task: int
    epoch: int
    classes_seen: int
    layers: tuple[LayerDormancy, ...]


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
    ranks: bool
    tasks: tuple[TaskRanks, ...]
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
            run.model, example, eps=settings.eps, wanted=settings.site, ranked=self._ranked, note=runtime.note
        )
        units = {
            kind: [each.units for each in self._observe.layers if each.kind == kind] for kind in DOCUMENTED
        }
        self._units = {kind: sum(of_layers) for kind, of_layers in units.items() if of_layers}
        self.columns = tuple(self._units)
        self.further = ("ranks",) if self._observe.ranked else ()
        if settings.ranks and run.initial is None:
            runtime.note("no checkpoint of epoch 0 is there: no distance from initialisation", once=True)

    @cached_property
    def _initial(self) -> dict[str, Tensor] | None:
        return self.run.initial_parameters()

    def _ranked(self, found: Sequence[Layer]) -> Sequence[Layer]:
        """The layers whose ranks are taken; what their sums need on the disk is bounded."""
        if not self.settings.ranks:
            return ()
        parts = -(-len(self.run.samples) // UNIT)
        kept, left = ranks.chosen(found, RANK_BYTES // (8 * parts))
        if left:
            self.runtime.note(
                f"no ranks of {len(left)} layers of {min(layer.units for layer in left):,} units and more, whose "
                f"products need more room than {RANK_BYTES >> 30} GiB, or more than {ranks.WIDEST:,} units: "
                "--max-samples N leaves more room to each"
            )
        return kept

    def plan(self) -> str:
        run = self.run
        return (
            f"dormant units of {len(run.samples):,} samples ({self.settings.split}) of {run.data.name} at "
            f"{len(run.checkpoints)} epochs of {run.arch.model} on {self.runtime.device}: "
            f"{' and '.join(f'{count:,} units {kind}' for kind, count in self._units.items())} activation"
        )

    def batch(self, batch: Batch) -> dict[str, Tensor]:
        seen = self._observe(batch.images)
        ranked = RANKED_SUMS if self._observe.ranked else ()
        return {name: getattr(seen, name) for name in (*self.columns, *SUMS, *ranked)}

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
        if settings.ranks:
            every, now = self._observe.layers, dict(self.run.model.named_parameters())
            rows = layers.with_ranks(rows, every, self._observe.ranked, whole, len(scored[0]))
            rows = layers.with_weights(rows, every, now, self._initial)
        files.write_text(self._named(LAYERS, epoch), layers.table(rows, ranked=settings.ranks))
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
            ranks=_last_hidden(rows) if self._observe.ranked else None,
        )

    def headline(self, row: EpochDormancy) -> Mapping[str, float | None]:
        return {f"mean_{kind}": getattr(row, kind)["mean"] for kind in self.columns}

    def _layers(self, epoch: int) -> list[LayerDormancy]:
        return layers.parse(self._named(LAYERS, epoch).read_text("utf-8"))

    def _tasks(self, epochs: Sequence[int]) -> tuple[TaskRanks, ...]:
        """The last of the epochs of every task, where the run learnt its classes task by task."""
        tasks = self.run.seen.tasks or own_tasks(self.run.about.tasks)
        if tasks is None or not self.settings.ranks:
            return ()
        last = {tasks.at(epoch - 1): epoch for epoch in epochs if epoch > 0}
        return tuple(
            TaskRanks(
                task=task,
                epoch=epoch,
                classes_seen=len(tasks.seen(task)),
                layers=tuple(row for row in self._layers(epoch) if row.site == "post"),
            )
            for task, epoch in last.items()
        )

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
            "tasks": self._tasks([row.epoch for row in rows]),
            "figure": str(self._figure),
        }

    def finish(self, result: DormantResult) -> list[Path]:
        epochs = [each.epoch for each in result.epochs]
        shares = {kind: [getattr(each, kind) for each in result.epochs] for kind in self.columns}
        title = f"Dormant units: {about(self.run.arch.model, result.dataset, [*epochs, None])}"
        picture = figures.evolution(epochs, shares, self._by_layer(epochs), title, self.settings)
        files.atomic_write(self._figure, picture)
        drawn = [self._figure, *self._draw_ranks(epochs, result)]
        summary = self.folder / f"dormant_summary_{result.dataset}.json"
        write_summary(summary, result)
        return [*(path for epoch in epochs for path in self.files(epoch)), *drawn, summary]

    def _draw_ranks(self, epochs: Sequence[int], result: DormantResult) -> list[Path]:
        """The figure of the ranks, where some are taken."""
        if not self._observe.ranked:
            return []
        after = [[row for row in self._layers(epoch) if row.site == "post"] for epoch in epochs]
        title = f"Ranks of features: {about(self.run.arch.model, result.dataset, [*epochs, None])}"
        path = self.folder / self.settings.named(RANKS_FIGURE)
        ends = [task.epoch for task in result.tasks]
        files.atomic_write(path, figures.ranks(epochs, after, ends[:-1], title, self.settings))
        return [path]


def _last_hidden(rows: Sequence[LayerDormancy]) -> dict[str, float | None]:
    """The ranks of the last layer behind a nonlinearity."""
    last = [row for row in rows if row.site == "post"][-1]
    return {name: getattr(last, name) for name in RANKS}
