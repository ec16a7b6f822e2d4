"""`mcx lmc run`: one main branch, one branch per k1, and the straight lines between them.

The main branch keeps a checkpoint of every epoch, 0 included. A branch restores weights, optimizer and schedule of
epoch k1 and goes on with another order of the data. It is compared with the main branch after k2 further epochs.
Source: Frankle et al. 2020, arXiv:1912.05671; the shortcut of using the main branch as one of the two copies is
that of the linear mode connectivity study that `seeds` of the documents describe.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from modeconn_cli.engine import checkpoints, datasets, figures, files, jobs, models, names, positions
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.errors import SettingsError, Stopped
from modeconn_cli.engine.lmc import line
from modeconn_cli.engine.records import Record
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.curve import PathSettings
from modeconn_cli.engine.settings.lmc import LmcRunSettings
from modeconn_cli.engine.training import NetworkProblem, evaluate, recipe_of
from modeconn_cli.engine.training.folder import Keeping, train

OWNED = (
    "checkpoints/*/*.pt",
    "checkpoints/*/metrics.jsonl",
    "processed/*.json",
    "dataframes/*.csv",
    "figures/*.png",
)
COLUMNS = ("k1", "k2", "epoch", "distance")
SERIES = ("loss_train", "error_train", "loss_test", "error_test")


@dataclass(frozen=True)
class PairResult:
    """A branch against the main branch at one epoch. `barriers`: definition -> series -> barrier."""

    k1: int
    k2: int
    epoch: int
    distance: float
    barriers: dict[str, dict[str, float | None]]
    file: str


@dataclass(frozen=True, kw_only=True)
class LmcRunResult(Record):
    schema: ClassVar[str] = "mcx.lmc_run/1"

    dataset: str
    model: str
    seed: int
    branch_seed: int
    max_epochs: int
    trained_epochs: int  # in this run; 0 where everything was there already
    pairs: tuple[PairResult, ...]
    missing: list[str]  # checkpoints that early stopping left out
    table: str
    figures: list[str]


@dataclass
class _Plan:
    """What is to be trained: epochs of the main branch and of each branch."""

    max_epochs: int
    k1: tuple[int, ...]
    k2: tuple[int, ...]
    branch_seed: int

    @property
    def epochs(self) -> int:
        return self.max_epochs + len(self.k1) * max(self.k2)


def plan(settings: LmcRunSettings) -> _Plan:
    """The experiment's size. Raises SettingsError for epochs that do not exist and for equal seeds."""
    k1, k2 = tuple(sorted(set(settings.k1))), tuple(sorted(set(settings.k2)))
    if not k1 or not k2:
        raise SettingsError("no epochs to compare", "pass --k1 0,1 --k2 1,4")
    max_epochs = settings.max_epochs or max(k1) + max(k2)
    if max(k1) > max_epochs:
        raise SettingsError(
            f"--k1 {max(k1)} lies beyond the main branch of {max_epochs} epochs", "pass --max-epochs"
        )
    if max(k1) + max(k2) > max_epochs:
        raise SettingsError(
            f"k1 + k2 = {max(k1)} + {max(k2)} lies beyond the main branch of {max_epochs} epochs",
            "pass --max-epochs",
        )
    branch_seed = settings.seed + 1 if settings.branch_seed is None else settings.branch_seed
    main_seed = settings.seed if settings.data_seed is None else settings.data_seed
    if branch_seed in (settings.seed, main_seed):
        raise SettingsError(
            f"the branch seed {branch_seed} is the main branch's: the branches would reproduce it",
            "pass another --branch-seed",
        )
    return _Plan(max_epochs, k1, k2, branch_seed)


def run(settings: LmcRunSettings, runtime: Runtime) -> LmcRunResult | None:
    """Train what is missing, evaluate the pairs that are missing, and draw."""
    if settings.output_dir is None:
        raise SettingsError("no folder for the results", "pass --output-dir DIR")
    if settings.model is None:
        raise SettingsError("no network", "pass --model NAME or --preset NAME")
    todo, at = plan(settings), line.alphas(settings.num_alphas)
    data = datasets.load(settings, runtime.device)
    if settings.patience is not None and len(data.val) == 0:
        raise SettingsError(
            "early stopping watches validation images and there are none", "pass --val-size N"
        )
    arch = models.architecture(settings, num_classes=data.num_classes, input_shape=data.input_shape)
    pairs = [(k1, k2) for k1 in todo.k1 for k2 in todo.k2]
    if runtime.plan(
        [
            f"train {arch.model} on {data.name}: a main branch of {todo.max_epochs} epochs and {len(todo.k1)} branches "
            f"of {max(todo.k2)}, {todo.epochs} epochs of {len(data.fit):,} images on {runtime.device}",
            f"evaluate {len(pairs)} lines at {len(at)} positions on {len(data.fit) + len(data.held_out):,} images",
            f"results in {settings.output_dir}",
        ]
    ):
        return None
    with (
        jobs.opened(settings, settings.output_dir, "lmc run", runtime, owned=OWNED) as job,
        runtime.catching_signals(),
    ):
        experiment = _Experiment(settings, todo, data, arch, job, runtime)
        experiment.train()
        results = [found for pair in pairs if (found := experiment.pair(*pair, at)) is not None]
        table, drawn = _summarise(settings.output_dir, data.name, results)
        if not job.complete:
            job.finish([table, *drawn, *(Path(pair.file) for pair in results)])
    return LmcRunResult(
        dataset=data.name,
        model=arch.model,
        seed=settings.seed,
        branch_seed=todo.branch_seed,
        max_epochs=todo.max_epochs,
        trained_epochs=experiment.trained,
        pairs=tuple(results),
        missing=experiment.missing,
        table=str(table),
        figures=[str(path) for path in drawn],
    )


class _Experiment:
    """The branches in their folders and the pairs in theirs."""

    def __init__(
        self,
        settings: LmcRunSettings,
        todo: _Plan,
        data: Data,
        arch: models.Architecture,
        job: jobs.Job,
        runtime: Runtime,
    ) -> None:
        assert settings.output_dir is not None
        self.settings, self.plan, self.data, self.arch = settings, todo, data, arch
        self.job, self.runtime = replace(job, resumed=True), runtime
        self.root = settings.output_dir
        self.trained = 0
        self.missing: list[str] = []
        self._done = 0

    def folder(self, k1: int | None) -> Path:
        return self.root / names.CHECKPOINTS / ("main" if k1 is None else f"k1_{k1}")

    def train(self) -> None:
        """The main branch, then each branch; finished epochs are kept."""
        self._branch(None, self.plan.max_epochs)
        for k1 in self.plan.k1:
            if self._exists(None, k1):
                self._branch(k1, k1 + max(self.plan.k2))

    def _exists(self, k1: int | None, epoch: int) -> bool:
        path = self.folder(k1) / names.checkpoint(epoch)
        if not path.exists():
            self.missing.append(str(path))
        return path.exists()

    def _branch(self, k1: int | None, until: int) -> None:
        """Train one branch up to an epoch; `k1` None is the main one."""
        settings, folder = self.settings, self.folder(k1)
        seed = settings.seed if k1 is None else self.plan.branch_seed
        model = models.build(self.arch, settings.seed).to(self.runtime.device)
        own = settings if k1 is None else replace(settings, data_seed=None)
        recipe = recipe_of(
            own, epochs=until, batch_size=settings.batch_size, seed=seed, horizon=self.plan.max_epochs
        )
        about = {"schema": checkpoints.SCHEMA, **self.arch.describe(), **self.data.remembered, "seed": seed}
        start = None if k1 is None else self.folder(None) / names.checkpoint(k1)
        before = len(list(folder.glob("checkpoint-*.pt")))
        files.make_folder(folder)
        keeping = Keeping(folder, 1, about, settings.patience, settings.min_delta, start)
        train(
            NetworkProblem(model, settings.wd),
            self.data.fit,
            recipe,
            self.runtime,
            self.job,
            keeping,
            lambda _: self._watched(model),
        )
        self.trained += len(list(folder.glob("checkpoint-*.pt"))) - before - (k1 is None and before == 0)

    def _watched(self, model: nn.Module) -> dict[str, float]:
        """The validation loss, where early stopping watches it."""
        if self.settings.patience is None:
            return {}
        score = evaluate(model, self.data.val, self.settings.batch_size)
        return {"val_loss": score.loss, "val_accuracy": score.accuracy}

    def pair(self, k1: int, k2: int, at: list[float]) -> PairResult | None:
        """Branch against main at epoch k1 + k2; None where early stopping left one of them out."""
        epoch = k1 + k2
        there = [
            self._exists(branch, epoch) for branch in (None, k1)
        ]  # both are named where both are missing
        if not all(there):
            return None
        name = f"{self.data.name}_batch_{self.settings.batch_size}_k1_{k1}_k2_{k2}.json"
        path = self.root / "processed" / name
        old = _read(path)
        known = _rows(old)
        if old is None or any(alpha not in known for alpha in at):
            document = self._measure(k1, k2, at, known)
            files.write_json(path, document)
        elif old["alphas"] != at:
            document = {**old, **_only(old, at)}
        else:
            document = old
        self._done += 1
        total = len(self.plan.k1) * len(self.plan.k2)
        self.runtime.progress(self._done, total, unit="pair", k1=k1, k2=k2)
        if self.runtime.stopping() and self._done < total:
            raise Stopped(
                f"stopped by a signal after {self._done} of {total} pairs", "run the same command again"
            )
        return PairResult(k1, k2, epoch, document["distance"], document["barriers"], str(path))

    def _measure(self, k1: int, k2: int, at: list[float], known: Mapping[float, line.Row]) -> dict[str, Any]:
        settings = self.settings
        ends = [checkpoints.read(self.folder(branch) / names.checkpoint(k1 + k2)) for branch in (None, k1)]
        how = PathSettings(
            model=settings.model, model_arg=settings.model_arg, bn=settings.bn, batch_size=settings.batch_size,
            seed=settings.seed,
        )  # fmt: skip
        source = positions.line_between(how, ends[0], ends[1], self.runtime)
        found = line.measure(source, self.data, how, at, known)
        return {
            "schema": "mcx.lmc_pair/1",
            "dataset": self.data.name,
            "k1": k1,
            "k2": k2,
            "epoch": k1 + k2,
            "distance": found.distance,
            "alphas": found.alphas,
            "losses_train": found.losses_train,
            "accuracy_lst_train": found.accuracy_lst_train,
            "losses_test": found.losses_test,
            "accuracy_lst_test": found.accuracy_lst_test,
            "barriers": found.barriers(),
            "alpha_0": "main",
            "alpha_1": f"k1_{k1}",
            "seed": settings.seed,
            "branch_seed": self.plan.branch_seed,
            "bn": found.bn,
        }


def _read(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else None


def _rows(document: Mapping[str, Any] | None) -> dict[float, line.Row]:
    """α -> figures of a pair that was measured before."""
    if document is None:
        return {}
    return {
        alpha: {name: document[name][i] for name in line.LISTS} for i, alpha in enumerate(document["alphas"])
    }


def _only(document: Mapping[str, Any], at: list[float]) -> dict[str, Any]:
    """A pair measured at more positions, seen at some of them."""
    rows = _rows(document)
    lists = {name: [rows[alpha][name] for alpha in at] for name in line.LISTS}
    found = line.Line(alphas=at, distance=document["distance"], bn=document["bn"], **lists)
    return {"alphas": at, **lists, "barriers": found.barriers()}


def _summarise(root: Path, dataset: str, results: list[PairResult]) -> tuple[Path, list[Path]]:
    """One row per pair, and heat maps of barrier and distance over k1 and k2."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    definitions = list(results[0].barriers) if results else []
    writer.writerow([*COLUMNS, *(f"{name}_{series}" for name in definitions for series in SERIES)])
    for pair in results:
        values = [pair.barriers[name][series] for name in definitions for series in SERIES]
        writer.writerow([*(getattr(pair, column) for column in COLUMNS), *values])
    table = root / "dataframes" / f"{dataset}.csv"
    files.write_text(table, out.getvalue())
    maps: dict[str, tuple[str, list[float | None]]] = {
        f"barrier_{series}.png": (title, [p.barriers["max_gap"][series] for p in results])
        for series, title in {
            "loss_test": "test loss barrier in nats (max_gap)",
            "error_test": "test error barrier in points (max_gap)",
        }.items()
    }
    maps["distance.png"] = ("L2 distance", [p.distance for p in results])
    drawn = []
    places = [(p.k1, p.k2) for p in results]
    for name, (title, values) in maps.items():
        path = root / "figures" / f"{dataset}_{name}"
        files.atomic_write(path, figures.over_k1_k2(title, places, [float(v or 0.0) for v in values]))
        drawn.append(path)
    return table, drawn
