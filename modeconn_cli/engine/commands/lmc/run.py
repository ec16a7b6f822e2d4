"""`mcx lmc run`: one main branch, one branch per k1, and the straight lines between them.

The main branch keeps a checkpoint of every epoch, 0 included. A branch restores weights, optimizer and schedule of
epoch k1 and goes on with another order of the data. It is compared with the main branch after k2 further epochs.
Source: Frankle et al. 2020, arXiv:1912.05671; the shortcut of using the main branch as one of the two copies is
that of the linear mode connectivity study that `seeds` of the documents describe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.lmc import figures, pairs
from modeconn_cli.engine.commands.lmc import plan as planning
from modeconn_cli.engine.commands.lmc.pairs import PairResult
from modeconn_cli.engine.commands.lmc.plan import Plan
from modeconn_cli.engine.errors import InputError, Stopped
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, models, subject
from modeconn_cli.engine.networks.subject import Subject
from modeconn_cli.engine.paths import evaluate as along
from modeconn_cli.engine.paths import line
from modeconn_cli.engine.paths import statistics as positions
from modeconn_cli.engine.paths.statistics import Positioned
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.curve import PathSettings
from modeconn_cli.engine.settings.lmc import LmcRunSettings
from modeconn_cli.engine.training import NetworkProblem, Recipe, evaluate, recipe_of
from modeconn_cli.engine.training.folder import Keeping, train

OWNED = (
    "checkpoints/*/*.pt",
    "checkpoints/*/metrics.jsonl",
    "processed/*.json",
    "dataframes/*.csv",
    "figures/*.png",
)


@dataclass(frozen=True, kw_only=True)
class LmcRunResult(Record):
    """`stable_from`: the first k1 from which on the error rises by less than 2 points on every line."""

    schema: ClassVar[str] = "mcx.lmc_run/1"

    dataset: str
    model: str
    seed: int
    branch_seed: int
    max_epochs: int
    trained_epochs: int  # in this run; 0 where everything was there already
    evaluated_positions: int  # in this run
    stable_from: int | None
    pairs: tuple[PairResult, ...]
    missing: list[str]  # checkpoints that early stopping left out
    table: str
    figures: list[str]


def run(settings: LmcRunSettings, runtime: Runtime) -> LmcRunResult | None:
    """Train what is missing, evaluate the pairs that are missing, and draw."""
    todo = planning.plan(settings, line.alphas(settings.num_alphas))
    found = subject.open_untrained(settings, runtime, watched=settings.patience is not None)
    data, arch = found.data, found.arch
    experiment = _Experiment(settings, todo, found, runtime)
    said = planning.lines(
        todo,
        [experiment.file(*pair) for pair in todo.pairs],
        experiment.network(),
        data,
        experiment.recipe(None),
        settings.bn,
        runtime,
    )
    if runtime.plan(said):
        return None
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(settings, todo.root, "lmc run", runtime, owned=OWNED, mends=True) as job,
    ):
        runtime.group.agree(data.identity)
        experiment.train(job)
        results = experiment.results()
        if not results and runtime.group.leader:
            runtime.warn("early stopping left no pair to compare: use a larger --patience")
        table, drawn = _summarise(todo, data.name, results, write=not job.complete)
        if not job.complete:
            job.finish([table, *drawn, *(Path(pair.file) for pair in results)])
    return LmcRunResult(
        dataset=data.name,
        model=arch.model,
        seed=settings.seed,
        branch_seed=todo.branch_seed,
        max_epochs=todo.max_epochs,
        trained_epochs=experiment.trained,
        evaluated_positions=experiment.evaluated,
        stable_from=pairs.stable_from(results),
        pairs=tuple(results),
        missing=experiment.missing,
        table=str(table),
        figures=[str(path) for path in drawn],
    )


class _Experiment:
    """The branches in their folders and the pairs in theirs."""

    def __init__(self, settings: LmcRunSettings, todo: Plan, found: Subject, runtime: Runtime) -> None:
        self.settings, self.plan, self.subject, self.runtime = settings, todo, found, runtime
        self.data = found.data
        self.trained = self.evaluated = 0
        self.missing: list[str] = []

    def network(self) -> nn.Module:
        return models.build(self.subject.arch, self.settings.seed).to(self.runtime.device)

    def recipe(self, k1: int | None) -> Recipe:
        """How a branch is trained; `k1` None is the main one."""
        settings = self.settings if k1 is None else replace(self.settings, data_seed=None)
        return recipe_of(
            settings,
            epochs=self.plan.branches[k1],
            batch_size=settings.batch_size,
            seed=settings.seed if k1 is None else self.plan.branch_seed,
            horizon=self.plan.schedule_epochs,
        )

    def train(self, job: jobs.Job) -> None:
        """The main branch, then each branch; finished epochs are kept. The other ranks wait for the leader."""
        self.job = replace(job, resumed=True)  # whatever a branch's folder holds is the job's own
        self.trained, self.missing = self.runtime.group.lead(self._train)

    def results(self) -> list[PairResult]:
        """Every pair; ranks share those that are to be measured."""
        group = self.runtime.group
        for pair in group.share(self.plan.pairs):
            self.pair(*pair)
        self.evaluated = sum(group.gather(self.evaluated))
        if not group.leader:
            return []  # results are the leader's to read
        return [found for pair in self.plan.pairs if (found := self.pair(*pair)) is not None]

    def _train(self) -> tuple[int, list[str]]:
        self._check_schedule()
        ends = {epoch for k1, k2 in self.plan.pairs for epoch in (k1, k1 + k2)}
        self._branch(None)
        self._check(None, ends)
        for k1 in self.plan.k1:
            if self.plan.checkpoint(None, k1).exists():
                self._branch(k1)
                self._check(k1, {k1 + k2 for k2 in self.plan.k2})
        return self.trained, self.missing

    def _check_schedule(self) -> None:
        """Raises InputError where the learning rates would not be those of the epochs that are there."""
        first = self.plan.checkpoint(None, 0)
        if self.settings.schedule == "constant" or not first.exists():
            return
        spanned = checkpoints.read(first).about.schedule_epochs
        if spanned != self.plan.schedule_epochs:
            raise InputError(
                f"the {self.settings.schedule} schedule of this experiment spans {spanned} epochs, "
                f"now {self.plan.schedule_epochs}",
                f"pass --schedule-epochs {spanned} to go on with it, or use another --output-dir",
            )

    def _check(self, k1: int | None, epochs: set[int]) -> None:
        """Name the epochs that early stopping left out. Raises InputError where others are missing."""
        folder = self.plan.folder(k1)
        absent = [epoch for epoch in sorted(epochs) if not self.plan.checkpoint(k1, epoch).exists()]
        last = max(names.epoch_of(path) or 0 for path in folder.glob("checkpoint-*.pt"))
        lost = [names.checkpoint(epoch) for epoch in absent if epoch < last]
        if lost:
            raise InputError(
                f"'{folder}' lacks {', '.join(lost)}",
                "put them back, or delete the checkpoints of later epochs to train them again",
            )
        self.missing += [str(self.plan.checkpoint(k1, epoch)) for epoch in absent]

    def _branch(self, k1: int | None) -> None:
        settings, folder = self.settings, self.plan.folder(k1)
        model, recipe = self.network(), self.recipe(k1)
        about = self.subject.trained(
            settings, seed=recipe.seed, wd=settings.wd, schedule_epochs=self.plan.schedule_epochs
        )
        start = None if k1 is None else self.plan.checkpoint(None, k1)
        before = len(list(folder.glob("checkpoint-*.pt")))
        files.make_folder(folder)
        branch = "main" if k1 is None else f"k1={k1}"
        keeping = Keeping(folder, 1, about, settings.patience, settings.min_delta, start, {"branch": branch})
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

    def file(self, k1: int, k2: int) -> Path:
        name = pairs.name(self.data.name, self.settings.batch_size, k1, k2)
        return self.plan.root / "processed" / name

    def pair(self, k1: int, k2: int) -> PairResult | None:
        """Branch against main at epoch k1 + k2; None where early stopping left one of them out."""
        ends = [self.plan.checkpoint(branch, k1 + k2) for branch in (None, k1)]
        if not all(path.exists() for path in ends):
            return None
        path, wanted = self.file(k1, k2), self.plan.alphas
        old = self._measured(path)
        known = None if old is None else old.line
        if old is not None and (fewer := old.line.at(wanted)) is not None:
            # Asked for fewer positions than the file holds: it keeps them all.
            return PairResult(k1, k2, k1 + k2, old.result.distance, fewer.barriers(), str(path))
        document = self._measure(k1, k2, ends, known)
        files.write_json(path, document)
        self._parts(k1, k2).unlink(missing_ok=True)
        return PairResult(k1, k2, k1 + k2, document["distance"], document["barriers"], str(path))

    def _measured(self, path: Path) -> pairs.Pair | None:
        """What a pair's file holds; a broken one is measured again."""
        if not path.exists():
            return None
        try:
            return pairs.read(path)
        except InputError as error:
            self.runtime.warn(f"{error.message}; measured again")
            return None

    def _parts(self, k1: int, k2: int) -> Path:
        return self.job.private / f"k1_{k1}_k2_{k2}.jsonl"

    def _measure(self, k1: int, k2: int, ends: list[Path], known: line.Line | None) -> dict[str, Any]:
        settings = self.settings
        how = PathSettings(
            model=settings.model, model_arg=settings.model_arg, bn=settings.bn, batch_size=settings.batch_size,
            seed=settings.seed,
        )  # fmt: skip
        read = [checkpoints.read(path) for path in ends]
        source = positions.line_between(subject.open_networks(read, how, self.runtime, "no data"))
        positioned = Positioned(source, how, self.data.fit)
        new = [alpha for alpha in self.plan.alphas if known is None or alpha not in known.alphas]
        rows = []
        for row in along.walk(positioned, self.data, new, how.batch_size, self._parts(k1, k2)):
            rows.append(row)
            self.evaluated += 1
            self.runtime.progress(len(rows), len(new), k1=k1, k2=k2, alpha=row["t"], te_nll=row["te_nll"])
            if self.runtime.stopping():
                raise Stopped(
                    f"stopped by a signal on the line k1 = {k1}, k2 = {k2}", "run the same command again"
                )
        found = line.Line.of(rows) if known is None else known.joined(line.Line.of(rows))
        return {
            "schema": pairs.SCHEMA,
            "dataset": self.data.name,
            "k1": k1,
            "k2": k2,
            "epoch": k1 + k2,
            "distance": along.endpoint_distance(source.path),
            "alphas": found.alphas,
            **{name: getattr(found, name) for name in line.LISTS},
            "barriers": found.barriers(),
            "alpha_0": "main",
            "alpha_1": f"k1_{k1}",
            "seed": settings.seed,
            "branch_seed": self.plan.branch_seed,
            "bn": positioned.describe(),
        }


def _summarise(
    todo: Plan, dataset: str, results: list[PairResult], *, write: bool
) -> tuple[Path, list[Path]]:
    """One row per pair, heat maps of barrier and distance over k1 and k2, and the story in one figure."""
    table = todo.root / "dataframes" / f"{dataset}.csv"
    drawn = [
        todo.root / "figures" / f"{dataset}_{name}.png" for name in ("barriers", *figures.MAPS) if results
    ]
    if write:
        files.write_text(table, pairs.table([({}, pair) for pair in results]))
    if write and results:
        story = figures.story(dataset, [pairs.read(Path(pair.file)) for pair in results])
        for path, content in zip(drawn, (story, *figures.maps(results).values()), strict=True):
            files.atomic_write(path, content)
    return table, drawn
