"""`mcx train`: networks from scratch, one folder per seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np

from modeconn_cli.engine import names
from modeconn_cli.engine.datasets import Data, Samples
from modeconn_cli.engine.datasets.noise import Flips
from modeconn_cli.engine.datasets.samples import spans
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import models, weights
from modeconn_cli.engine.networks.subject import Subject, open_untrained, read_own
from modeconn_cli.engine.results import files, jobs, memo_scores, records
from modeconn_cli.engine.results.figures import about
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.train import TrainSettings
from modeconn_cli.engine.training import NetworkProblem, evaluation, recipe_of, space, task_results, teacher
from modeconn_cli.engine.training.evaluation import Score
from modeconn_cli.engine.training.folder import OWNED, Keeping, Trained, train
from modeconn_cli.engine.training.halves import Halves
from modeconn_cli.engine.training.loop import Watcher
from modeconn_cli.engine.training.metrics import LoggedEpoch, MetricsLog
from modeconn_cli.engine.training.network import check_takes_images
from modeconn_cli.engine.training.task_results import TaskResult
from modeconn_cli.engine.training.tasks import Curriculum, Tasks, tasks_of
from modeconn_cli.engine.training.tracking import RecordedDynamics, TrackedColumns, TrackedCsv

TWO_PHASES = "in two phases, each on a random half of the images, and once more the other way round"
ROWS = "tracking.rows"  # of a run in progress


@dataclass(frozen=True, kw_only=True)
class Network:
    """One trained network. Losses in nats, accuracies in percent. `swapped`: of two phases the other half is first."""

    seed: int
    checkpoint: str
    epoch: int
    weights_of_epoch: int  # the best of the last task where there are tasks, whose losses these are
    train_loss: float | None
    train_accuracy: float | None
    held_out: str
    held_out_loss: float | None  # None where no image is of a class seen
    held_out_accuracy: float | None
    stopped_early: bool
    tasks: tuple[TaskResult, ...] = ()
    swapped: bool | None = None


@dataclass(frozen=True, kw_only=True)
class TrainResult(Record):
    schema: ClassVar[str] = "mcx.train/1"

    model: str
    dataset: str
    num_params: int
    epochs: int
    networks: tuple[Network, ...]


def run(settings: TrainSettings, runtime: Runtime) -> TrainResult | None:
    """Train one network per seed; finished ones are kept as they are."""
    if settings.label_noise and settings.label_seed is None:
        settings = replace(settings, label_seed=settings.seed)  # one data set for all --seeds
    # Whoever holds nothing out, and wants nothing measured, trains on all images.
    measured = settings.val_size != 0 or settings.eval_every != 0 or settings.classes_per_task is not None
    taught = (
        _taught(settings, runtime) if settings.noise_kind == "instance" and settings.label_noise else None
    )
    if settings.noise_kind == "instance" and taught is None:  # of a plan
        settings = replace(settings, label_noise=None, label_seed=None, noise_kind=None, explicit=frozenset())
    found = open_untrained(
        settings, runtime, watched=settings.patience is not None, measured=measured, taught=taught
    )
    data, arch, model = found.data, found.arch, found.model
    seeds = settings.seeds or (settings.seed,)
    plans = {seed: tasks_of(settings, data.num_classes, seed) for seed in seeds}
    any_plan = plans[seeds[0]]
    epochs = settings.epochs
    if epochs is None:
        epochs = 200 if any_plan is None else any_plan.count * any_plan.epochs
    for plan in plans.values():
        if plan is not None:
            plan.check(data.fit, epochs)
    settings = replace(settings, epochs=epochs)
    phases = (False, True) if settings.two_phase else (None,)
    whole = epochs * (2 if settings.two_phase else 1)
    if settings.two_phase and min(Curriculum(data.fit, Halves(settings.seed, False, 1)).sizes) < 2:
        raise SettingsError(f"{len(data.fit)} training images are too few for two phases")
    size = weights.count(dict(model.named_parameters()))
    check_takes_images(model, arch)
    most = "up to " if any_plan else ""
    steps = len(spans(len(data.fit), settings.batch_size, merge_single=True))
    if runtime.plan(
        [
            f"train {arch.model} ({size:,} parameters) on {data.name}: {len(data.fit):,} images, "
            f"{len(seeds)} x {epochs} epochs of {most}{steps} steps on {runtime.device}, {runtime.threads} threads",
            *([TWO_PHASES] if settings.two_phase else _said(any_plan)),
            *data.flips_said(),
            f"results in {settings.output_dir}, a checkpoint every {_every(settings.save_freq or epochs)}",
            space.said(
                len(seeds) * len(phases) * space.kept_epochs(whole, settings.save_freq),
                space.checkpoint_bytes(model, settings),
                settings.output_dir,
                runtime,
            ),
        ]
    ):
        return None
    runs = list(product(seeds, phases))
    networks = [
        _Training(
            replace(settings, seed=seed, seeds=()),
            settings,
            found,
            plans[seed] if swapped is None else Halves(seed, swapped, epochs),
            runtime.part(k, 1, len(runs), seed=seed) if len(runs) > 1 else runtime,
        ).run()
        for k, (seed, swapped) in enumerate(runs)
    ]
    return TrainResult(
        model=arch.model, dataset=data.name, num_params=size, epochs=epochs, networks=tuple(networks)
    )


def _taught(settings: TrainSettings, runtime: Runtime) -> Flips | None:
    """The flips of a teacher, which is trained first; None where only the plan was asked for."""
    runtime.note(
        f"a teacher is trained first, on the clean labels: {teacher.EPOCHS} epochs, in {teacher.FOLDER}/"
    )
    if runtime.dry_run:
        return None
    own = teacher.settings_of(settings, runtime)
    done = run(own, runtime)
    assert done is not None
    assert settings.label_noise is not None
    return teacher.flips(own, Path(done.networks[0].checkpoint), settings.label_noise, runtime)


def _said(tasks: Tasks | None) -> list[str]:
    if tasks is None:
        return []
    left = len(tasks.added(tasks.count - 1))
    fewer = f"; the last one adds {left}" if left < tasks.per_task else ""
    return [f"{tasks.count} tasks of {tasks.per_task} classes and {tasks.epochs} epochs each{fewer}"]


def _every(epochs: int) -> str:
    return "epoch" if epochs == 1 else f"{epochs} epochs"


class _Training:
    """The network of one seed, in its folder."""

    def __init__(
        self,
        settings: TrainSettings,
        whole: TrainSettings,
        found: Subject,
        plan: Tasks | Halves | None,
        runtime: Runtime,
    ) -> None:
        self.settings, self.whole, self.runtime = settings, whole, runtime
        self.tasks = plan if isinstance(plan, Tasks) else None
        self.halves = plan if isinstance(plan, Halves) else None
        swapped = "_swapped" if self.halves is not None and self.halves.swapped else ""
        self.folder = settings.output_dir / f"seed{settings.seed}{swapped}"
        self.model = models.build(found.arch, settings.seed).to(runtime.device)
        self.subject, self.data = replace(found, model=self.model), found.data
        self.curriculum = Curriculum(found.data.fit, plan)
        assert settings.epochs is not None
        self.epochs = settings.epochs * (1 if self.halves is None else self.halves.count)

    def run(self) -> Network:
        """Train the network unless that is done, and read the run back."""
        settings, folder, data, tasks = self.settings, self.folder, self.data, self.tasks
        with (
            self.runtime.catching_signals(),
            jobs.opened(settings, folder, "train", self.runtime, owned=OWNED) as job,
        ):
            if len(self.whole.seeds) > 1:
                idle = self.whole.idle()
                asked = {name: value for name, value in self.whole.recorded().items() if name not in idle}
                files.write_text(job.private / names.WHOLE_FILE, records.settings_text(asked))
            if not job.complete:
                begun = []
                if data.flips is not None:  # before the first checkpoint, whose labels it says
                    files.write_text(folder / names.LABEL_NOISE, data.flips.table())
                if tasks is not None:
                    begun.append(folder / task_results.ORDER)
                    files.write_array(begun[0], np.array(tasks.order, dtype=np.int64))
                outcome = self._trained() if job.redrawn else self._fit(job)
                made = [outcome.checkpoint, folder / names.METRICS, *begun]
                if tasks is not None:
                    made += [folder / names.task(task) for task in tasks.begun(outcome.epoch)]
                    title = about(self.subject.arch.model, data.name, [0, outcome.epoch, None])
                    ends = self._ends(tasks, outcome.epoch)
                    made += task_results.write(folder, ends, f"Tasks of {title}", settings)
                if settings.track_samples:
                    made.append((folder / names.TRACKING).with_suffix(f".{settings.track_format}"))
                if settings.record_csl:
                    made += sorted((folder / names.RECORDED).iterdir())
                if data.flips is not None:
                    made.append(folder / names.LABEL_NOISE)
                job.finish(made, epoch=outcome.epoch, early=outcome.stopped_early)
                (job.private / ROWS).unlink(missing_ok=True)
        return self._finished()

    def _fit(self, job: jobs.Job) -> Trained:
        settings, tasks = self.settings, self.tasks
        recipe = recipe_of(
            settings,
            epochs=self.epochs,
            batch_size=settings.batch_size,
            seed=settings.seed,
            period=None if self.curriculum.plan is None else self.curriculum.plan.epochs,
        )
        about = self.subject.trained(
            settings,
            seed=settings.seed,
            wd=settings.wd,
            tasks=None if tasks is None else tasks.entry(),
            halves=None if self.halves is None else self.halves.entry(),
        )
        keeping = Keeping(
            self.folder,
            settings.save_freq,
            about,
            settings.patience,
            settings.min_delta,
            tasks=tasks,
            halves=self.halves,
        )
        problem, watchers = NetworkProblem(self.model, settings.wd), self._watchers(job.private)
        try:
            outcome = train(
                problem, self.data.fit, recipe, self.runtime, job, keeping, self._measured, watchers
            )
        finally:
            for watcher in watchers:
                watcher.close()
        for watcher in watchers:
            if isinstance(watcher, TrackedColumns):
                watcher.pack((self.folder / names.TRACKING).with_suffix(".npz"))
        return outcome

    def _trained(self) -> Trained:
        """The outcome of a run that is over."""
        epoch = MetricsLog(self.folder).epoch
        return Trained(epoch, self.folder / names.checkpoint(epoch), epoch < self.epochs)

    def _measured(self, epoch: int) -> dict[str, float]:
        """Measure an epoch over the classes it was trained on; splits without images of them are left out."""
        data, settings = self.data, self.settings
        wanted: dict[str, Samples] = {}
        if settings.patience is not None or self.tasks is not None:
            wanted["val"] = data.val
        if settings.eval_every and epoch % settings.eval_every == 0:
            wanted["test" if data.use_test else "val"] = data.held_out
        out: dict[str, float] = {}
        for name, samples in wanted.items():
            score = self._score(samples, epoch)
            if score is not None:
                out |= {f"{name}_loss": score.loss, f"{name}_accuracy": score.accuracy}
        return out

    def _score(self, samples: Samples, epoch: int) -> Score | None:
        """Score the present weights over the classes that so many epochs were trained on."""
        classes = None if self.tasks is None else self.tasks.seen_by(epoch).to(samples.device)
        return evaluation.evaluate_seen(self.model, samples, classes, self.settings.batch_size)

    def _ends(self, tasks: Tasks, epoch: int) -> list[TaskResult]:
        """What each task of so many epochs ended with."""
        return task_results.measure(
            self.folder, epoch, tasks, self.model, self.data, self.settings.batch_size
        )

    def _watchers(self, private: Path) -> list[Watcher]:
        """What is written down of every sample while it trains."""
        settings, folder, data = self.settings, self.folder, self.data
        out: list[Watcher] = []
        if settings.track_samples:
            memo = {} if settings.memo_scores is None else memo_scores.as_text(settings.memo_scores)
            _compare_ids(memo, data, self.runtime)
            of = (memo, self.curriculum, settings.batch_size, settings.track_every)
            if settings.track_format == "npz":
                out.append(TrackedColumns(private / ROWS, *of))
            else:
                out.append(TrackedCsv(folder / names.TRACKING, *of))
        if settings.record_csl:
            out.append(RecordedDynamics(folder / names.RECORDED, data.name, self.curriculum, data.flips))
        return out

    def _finished(self) -> Network:
        """Read a finished run back and measure its last checkpoint, and what each task ended with."""
        data, log = self.data, MetricsLog(self.folder)
        path = self.folder / names.checkpoint(log.epoch)
        ends = () if self.tasks is None else tuple(self._ends(self.tasks, log.epoch))
        weights.load_into(self.model, read_own(path).whole, str(path))
        last = log.rows[-1] if log.rows else LoggedEpoch(epoch=0)
        weights_of = last.epoch if last.weights_of_epoch is None else last.weights_of_epoch
        shown = next((row for row in log.rows if row.epoch == weights_of), last)
        score = self._score(data.held_out, log.epoch)
        return Network(
            seed=self.settings.seed,
            checkpoint=str(path),
            epoch=log.epoch,
            weights_of_epoch=weights_of,
            train_loss=shown.train_loss,
            train_accuracy=shown.train_accuracy,
            held_out="test" if data.use_test else "val",
            held_out_loss=None if score is None else score.loss,
            held_out_accuracy=None if score is None else score.accuracy,
            stopped_early=log.epoch < self.epochs,
            tasks=ends,
            swapped=None if self.halves is None else self.halves.swapped,
        )


def _compare_ids(memo: Mapping[int, str], data: Data, runtime: Runtime) -> None:
    """Say which scores belong to no sample of the training, and how many samples have none."""
    trained = set(data.fit.ids.tolist())
    validation = set(memo) & set(data.val.ids.tolist())
    for what, ids in (
        ("validation images, which are not trained on", validation),
        ("ids that the training file does not have", set(memo) - trained - validation),
    ):
        if ids:
            shown = ", ".join(map(str, sorted(ids)[:5])) + (", …" if len(ids) > 5 else "")
            runtime.note(f"{len(ids):,} memorisation scores are of {what}: {shown}")
    without = len(trained - set(memo))
    if without:
        runtime.note(f"{without:,} of {len(trained):,} samples have no memorisation score")
