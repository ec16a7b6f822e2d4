"""`mcx lmc run`: one main branch, one branch per k1, and the straight lines between them.

The main branch keeps a checkpoint of every epoch, 0 included. A branch restores weights, optimizer and schedule of
epoch k1 and goes on with another order of the data. It is compared with the main branch after k2 further epochs.
Source: Frankle et al. 2020, arXiv:1912.05671. They train two copies from epoch k1; here the main branch itself is one
of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from modeconn_cli.engine import symmetry
from modeconn_cli.engine.commands.lmc import figures, pairs
from modeconn_cli.engine.commands.lmc import plan as planning
from modeconn_cli.engine.commands.lmc.branches import Branches
from modeconn_cli.engine.commands.lmc.line import Line
from modeconn_cli.engine.commands.lmc.pairs import MeanPair, Pair, PairDocument, PairResult
from modeconn_cli.engine.commands.lmc.plan import Plan
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import subject, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.networks.subject import Subject
from modeconn_cli.engine.paths.evaluate import Measurement, evaluate_path
from modeconn_cli.engine.paths.opened import OpenedPath, line_between
from modeconn_cli.engine.paths.statistics import StatisticsPolicy
from modeconn_cli.engine.results import files, jobs
from modeconn_cli.engine.results.figures import about
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.lmc import LmcRunSettings
from modeconn_cli.engine.settings.shared import FIGURE_FORMATS
from modeconn_cli.engine.symmetry.align import Aligner

OWNED = tuple(
    f"{place}{pattern}"
    for place in ("", "branch*/", "aligned_by_*/", "aligned_by_*/branch*/")
    for pattern in (
        "checkpoints/*/*.pt",
        "checkpoints/*/metrics.jsonl",
        "processed/*.json",
        "dataframes/*.csv",
        *(f"figures/*.{each}" for each in FIGURE_FORMATS),
    )
)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines of all pairs, and what is said of them. `stable_from`: the first k1 from which on the error rises by less
    than 2 points on every line.

    Of several seeds of the branches `pairs` are of one after the other, `means` over them, and `stable_from` is judged
    by the means.
    """

    stable_from: int | None
    pairs: tuple[PairResult, ...]
    means: tuple[MeanPair, ...]
    table: str
    mean_table: str | None  # of several seeds
    figures: list[str]  # those of all seeds together come first

    @property
    def files(self) -> list[Path]:
        tables = [self.table, *([] if self.mean_table is None else [self.mean_table])]
        return [Path(each) for each in (*tables, *self.figures, *(pair.file for pair in self.pairs))]


@dataclass(frozen=True, kw_only=True)
class LmcRunResult(Lines, Record):
    """The lines of the branches as they are; `aligned` are those with each branch aligned to the main one by the method
    `align`, None where that was not asked for.
    """

    schema: ClassVar[str] = "mcx.lmc_run/1"

    dataset: str
    model: str
    seed: int
    branch_seed: int | list[int]
    max_epochs: int
    trained_epochs: int  # in this run; 0 where everything was there already
    evaluated_positions: int  # in this run
    missing: list[str]  # checkpoints that early stopping left out
    align: str
    aligned: Lines | None


def run(settings: LmcRunSettings, runtime: Runtime) -> LmcRunResult | None:
    """Train what is missing, evaluate the pairs that are missing, and draw."""
    plans = planning.plans(settings)
    root, todo = settings.output_dir, plans[0]
    found = subject.open_untrained(settings, runtime, watched=settings.patience is not None)
    data, group = found.data, runtime.group
    first = Branches(todo, found, runtime)
    aligned = planning.aligned(plans)
    aligner = _aligner(found, settings)
    words = planning.lines(plans, first.network(), data, first.recipe(None), runtime)
    if runtime.plan(words):
        return None
    found.check_independent()
    with (
        runtime.catching_signals(),  # until the job has said how it ended
        jobs.opened(settings, root, "lmc run", runtime, owned=OWNED, mends=True) as job,
    ):
        main = _Main(todo, job)
        lines = [_Lines(each, found, main, job, runtime, aligner) for each in (*plans, *aligned)]
        # By epoch: the lines of one begin at the same network.
        units = sorted(((line, pair) for line in lines for pair in todo.pairs), key=lambda unit: sum(unit[1]))
        epochs = [list(each) for _, each in itertools.groupby(units, key=lambda unit: sum(unit[1]))]
        # All lines of an epoch at one rank, where every rank has an epoch then.
        shared = epochs if len(epochs) >= group.world else [[unit] for unit in units]
        mine = [unit for each in group.share(shared) for unit in each]
        steps = first.steps(len(plans))
        whole = steps + len(mine) * len(todo.alphas)
        training, measuring = runtime.stage(0, whole), runtime.stage(steps, whole)
        # The other ranks wait for the leader.
        trained = group.lead(
            lambda: [Branches(p, found, training).train(job, k, len(plans)) for k, p in enumerate(plans)]
        )
        for k, (line, pair) in enumerate(mine):
            line.result(*pair, measuring.part(k, 1, len(mine)))
        evaluated = sum(group.gather(sum(each.evaluated for each in lines)))
        by_seed = [
            each.results() if group.leader else [] for each in lines
        ]  # results are the leader's to read
        summary = _Summary(todo, data.name, found.arch.model, write=not job.complete)
        own = summary.lines(plans, by_seed[: len(plans)])
        moved = summary.lines(aligned, by_seed[len(plans) :]) if aligned else None
        if not own.pairs and group.leader:
            runtime.warn("early stopping left no pair to compare: use a larger --patience")
        if not job.complete:
            job.finish([*own.files, *(moved.files if moved else [])])
    return LmcRunResult(
        dataset=data.name,
        model=found.arch.model,
        seed=settings.seed,
        branch_seed=todo.branch_seed if len(plans) == 1 else [each.branch_seed for each in plans],
        max_epochs=todo.max_epochs,
        trained_epochs=sum(epochs for epochs, _ in trained),
        evaluated_positions=evaluated,
        **vars(own),
        missing=list(dict.fromkeys(path for _, missing in trained for path in missing)),
        align=settings.align,
        aligned=moved,
    )


def _aligner(found: Subject, settings: LmcRunSettings) -> Aligner | None:
    """What aligns one end of a line. Raises InputError for a network without units that can be exchanged."""
    if settings.align == "none":
        return None
    return Aligner.of(
        found, settings.align, batch_size=settings.batch_size, seed=settings.seed, hint="--align none"
    )


class _Main:
    """The main branch at one epoch, where the lines of all k1 and seeds begin: it is read and measured once."""

    def __init__(self, todo: Plan, job: jobs.Job) -> None:
        self._todo, self._job = todo, job
        self._epoch: int | None = None
        self._read: Checkpoint
        self._measured: dict[float, Measurement] = {}

    def at(self, epoch: int) -> tuple[Checkpoint, dict[float, Measurement]]:
        """Its checkpoint, and what was measured there (by position, 0); nothing before `take`."""
        if self._epoch != epoch:
            self._read, self._measured = _own(self._job, self._todo.checkpoint(None, epoch)), {}
            self._epoch = epoch
        return self._read, self._measured

    def take(self, found: Iterable[Measurement]) -> None:
        """Remember what a line has found at its beginning."""
        self._measured |= {each.t: each for each in found if each.t == 0}


def _own(job: jobs.Job, path: Path) -> Checkpoint:
    """A checkpoint of the experiment."""
    job.kept.check(path)
    return subject.read_own(path)


class _Lines:
    """The lines between the branches, evaluated into the pairs' files."""

    def __init__(
        self,
        todo: Plan,
        found: Subject,
        main: _Main,
        job: jobs.Job,
        runtime: Runtime,
        aligner: Aligner | None,
    ) -> None:
        self._todo, self._subject, self._main = todo, found, main
        self._job, self._runtime = job, runtime
        self._aligner = None if todo.align == "none" else aligner
        settings = todo.settings
        self._policy = StatisticsPolicy(settings.bn, settings.batch_size, settings.seed)
        self.evaluated = 0  # positions

    def results(self) -> list[PairResult]:
        """Every pair of which early stopping has left both branches."""
        pairs = [self.result(*pair, self._runtime) for pair in self._todo.pairs]
        return [found for found in pairs if found is not None]

    def result(self, k1: int, k2: int, runtime: Runtime) -> PairResult | None:
        """Branch against main at epoch k1 + k2; None where early stopping left one of them out."""
        ends = [self._todo.checkpoint(branch, k1 + k2) for branch in (None, k1)]
        if not all(path.exists() for path in ends):
            return None
        path, alphas = self._todo.file(self._subject.data.name, k1, k2), self._todo.alphas
        known = pairs.known(path, self._runtime.warn)
        # Asked for fewer positions than the file holds: it keeps them all.
        if known is None or known.at(alphas) is None:
            self._evaluate(k1, k2, known, path, runtime)
            known = pairs.read(path)
        return known.at(alphas)

    def _evaluate(self, k1: int, k2: int, known: Pair | None, path: Path, runtime: Runtime) -> None:
        """Measure the positions that a pair's file lacks, and write it."""
        there = [] if known is None else known.line.alphas.tolist()
        new = [alpha for alpha in self._todo.alphas if alpha not in there]
        folder = self._todo.lines_place.relative_to(self._todo.root)
        log = self._job.private / "-".join([*folder.parts, f"k1_{k1}_k2_{k2}.jsonl"])
        main, measured = self._main.at(k1 + k2)
        branch = _own(self._job, self._todo.checkpoint(k1, k1 + k2))
        opened = self._open(main, self._aligned(main, branch))
        on_line = evaluate_path(opened, new, runtime, log, {"k1": k1, "k2": k2}, measured)
        self._main.take(on_line.measurements)
        self.evaluated += len(new)
        line = Line.measured(on_line.measurements)
        line = line if known is None else known.line.joined(line)
        document = PairDocument(
            dataset=self._subject.data.name,
            k1=k1,
            k2=k2,
            epoch=k1 + k2,
            distance=on_line.opened.path.endpoint_distance(),
            line=line,
            barriers=line.barriers(),
            alpha_0="main",
            alpha_1=f"k1_{k1}",
            seed=self._policy.seed,
            branch_seed=self._todo.branch_seed,
            align=self._todo.align,
            bn=on_line.statistics,
        )
        files.write_json(path, document.document())
        log.unlink(missing_ok=True)

    def _aligned(self, main: Checkpoint, branch: Checkpoint) -> Checkpoint:
        """The branch with its units in the order of the main branch's, where lines are so."""
        if self._aligner is None:
            return branch
        orders = self._aligner.pair(main.state, branch.state).orders
        return replace(branch, state=symmetry.permute(branch.state, orders))

    def _open(self, *ends: Checkpoint) -> OpenedPath:
        """The straight line between two checkpoints of the experiment."""
        for each in reversed(ends):
            weights.load_into(self._subject.model, each.whole, str(each.path))
        return line_between(replace(self._subject, checkpoints=ends), self._policy)


class _Summary:
    """Tables and figures of pairs, in their folders; where they are there already only their places."""

    def __init__(self, todo: Plan, dataset: str, model: str, *, write: bool) -> None:
        self._dataset, self._model, self._epochs = dataset, model, todo.max_epochs
        self._look, self._write = todo.settings, write

    def lines(self, plans: Sequence[Plan], by_seed: Sequence[Sequence[PairResult]]) -> Lines:
        """Everything of the lines of one kind."""
        results = [pair for each in by_seed for pair in each]
        means = pairs.means(results) if len(plans) > 1 else []
        align = "" if plans[0].align == "none" else f", aligned by {plans[0].align}"
        tables, drawn = self._of_all(plans[0].lines_root, results, means, align) if means else ([], [])
        for each, of_seed in zip(plans, by_seed, strict=True):
            tables.append(self.table(each.lines_place, of_seed))
            drawn += self.figures(each.lines_place, of_seed, f"branch seed {each.branch_seed}{align}")
        return Lines(
            stable_from=pairs.stable_from(means or results),
            pairs=tuple(results),
            means=tuple(means),
            table=str(tables[0]),
            mean_table=str(tables[1]) if means else None,
            figures=[str(path) for path in drawn],
        )

    def table(self, folder: Path, results: Sequence[PairResult]) -> Path:
        """One row per pair; of several seeds each row names its own."""
        seeds = {pair.branch_seed for pair in results}
        rows: list[tuple[dict[str, Any], PairResult]] = [
            ({"branch_seed": pair.branch_seed} if len(seeds) > 1 else {}, pair) for pair in results
        ]
        return self._text(folder / "dataframes" / f"{self._dataset}.csv", pairs.table(rows))

    def figures(self, folder: Path, results: Sequence[PairResult], seeds: str) -> list[Path]:
        """The story in one figure, and heat maps of barrier and distance over k1 and k2."""
        names_ = [f"{self._dataset}_{name}.png" for name in ("barriers", *figures.MAPS) if results]
        drawn = [folder / "figures" / self._look.named(name) for name in names_]
        if self._write and results:
            title = f"{about(self._model, self._dataset, [0, self._epochs, None])}, {seeds}"
            story = figures.story([pairs.read(Path(pair.file)) for pair in results], title, self._look)
            for path, content in zip(drawn, (story, *figures.maps(results, title, self._look)), strict=True):
                files.atomic_write(path, content)
        return drawn

    def _of_all(
        self, folder: Path, results: Sequence[PairResult], means: Sequence[MeanPair], align: str
    ) -> tuple[list[Path], list[Path]]:
        """All seeds together: every pair, the means with their spread, and the figures of these."""
        mean = self._text(folder / "dataframes" / f"{self._dataset}_mean.csv", pairs.mean_table(means))
        seeds = sorted({pair.branch_seed for pair in results if pair.branch_seed is not None})
        said = f"mean ± sd of the branch seeds {', '.join(map(str, seeds))}{align}"
        return [self.table(folder, results), mean], self.figures(folder, results, said)

    def _text(self, path: Path, content: str) -> Path:
        if self._write:
            files.write_text(path, content)
        return path
