"""`mcx train`: networks from scratch, one folder per seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from modeconn_cli.engine import names
from modeconn_cli.engine.datasets import Data, Samples
from modeconn_cli.engine.datasets.samples import spans
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, models, weights
from modeconn_cli.engine.networks.subject import Subject, open_untrained
from modeconn_cli.engine.results import files, jobs, memo_scores
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.train import TrainSettings
from modeconn_cli.engine.training import NetworkProblem, incremental, recipe_of
from modeconn_cli.engine.training.folder import OWNED, Keeping, Trained, train
from modeconn_cli.engine.training.incremental import TaskResult, tasks_of
from modeconn_cli.engine.training.loop import Watcher
from modeconn_cli.engine.training.tasks import Curriculum, Tasks
from modeconn_cli.engine.training.watchers import Recording, Tracking, TrackingRows

ROWS = "tracking.rows"  # of a run in progress


@dataclass(frozen=True, kw_only=True)
class Network:
    """One trained network. Losses in nats, accuracies in percent."""

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
    found = open_untrained(settings, runtime, watched=settings.patience is not None)
    data, arch, model = found.data, found.arch, found.model
    seeds = settings.seeds or (settings.seed,)
    if len(set(seeds)) < len(seeds):
        raise SettingsError(f"--seeds {','.join(map(str, seeds))} names a seed twice")
    plans = {seed: tasks_of(settings, data.num_classes, seed) for seed in seeds}
    any_plan = plans[seeds[0]]
    epochs = settings.epochs
    if epochs is None:
        epochs = 200 if any_plan is None else any_plan.count * any_plan.epochs
    for plan in plans.values():
        if plan is not None:
            incremental.check(plan, data, epochs)
    settings = replace(settings, epochs=epochs)
    size = weights.count(dict(model.named_parameters()))
    _probe(model, arch)
    most = "up to " if any_plan else ""
    steps = len(spans(len(data.fit), settings.batch_size, merge_single=True))
    if runtime.plan(
        [
            f"train {arch.model} ({size:,} parameters) on {data.name}: {len(data.fit):,} images, "
            f"{len(seeds)} x {epochs} epochs of {most}{steps} steps on {runtime.device}, {runtime.threads} threads",
            *_said(any_plan),
            f"results in {settings.output_dir}, a checkpoint every {settings.save_freq or epochs} epochs",
        ]
    ):
        return None
    networks = [
        _train_one(
            replace(settings, seed=seed, seeds=()),
            settings.output_dir / f"seed{seed}",
            found,
            plans[seed],
            runtime,
        )
        for seed in seeds
    ]
    return TrainResult(
        model=arch.model, dataset=data.name, num_params=size, epochs=epochs, networks=tuple(networks)
    )


def _said(tasks: Tasks | None) -> list[str]:
    if tasks is None:
        return []
    left = len(tasks.added(tasks.count - 1))
    fewer = f"; the last one adds {left}" if left < tasks.per_task else ""
    return [f"{tasks.count} tasks of {tasks.per_task} classes and {tasks.epochs} epochs each{fewer}"]


def _probe(model: nn.Module, arch: models.Architecture) -> None:
    """One forward of two blank images: a network that cannot take the data is named before the work begins."""
    try:
        with torch.no_grad():
            output = model.eval()(torch.zeros(2, *arch.input_shape))
    except (RuntimeError, ValueError) as error:
        raise SettingsError(
            f"{arch.model} cannot take images of {arch.input_shape}: {str(error).splitlines()[0]}",
            "pass --image-size N",
        ) from error
    if not isinstance(output, torch.Tensor) or output.shape != (2, arch.num_classes):
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise SettingsError(
            f"{arch.model} gives {shape} for two images, expected (2, {arch.num_classes}) logits"
        )


def _train_one(
    settings: TrainSettings,
    folder: Path,
    found: Subject,
    tasks: Tasks | None,
    runtime: Runtime,
) -> Network:
    data = found.data
    inputs = [path for path in (settings.class_order, settings.memo_scores) if path is not None]
    with (
        runtime.catching_signals(),
        jobs.opened(settings, folder, "train", runtime, owned=OWNED, inputs=inputs) as job,
    ):
        model = models.build(found.arch, settings.seed).to(runtime.device)
        if not job.complete:
            begun = [] if tasks is None else [incremental.write_order(folder, tasks)]
            outcome = _fit(settings, folder, replace(found, model=model), tasks, job, runtime)
            products = [outcome.checkpoint, folder / names.METRICS, *begun]
            if tasks is not None:
                ends = incremental.measure(folder, outcome.epoch, tasks, model, data, settings.batch_size)
                products += incremental.finished(folder, outcome.epoch, tasks)
                products += incremental.write(folder, ends)
            if settings.track_samples:
                products.append((folder / names.TRACKING).with_suffix(f".{settings.track_format}"))
            if settings.record_csl:
                products += sorted((folder / names.RECORDED).iterdir())
            if data.flips is not None:
                files.write_text(folder / names.LABEL_NOISE, data.flips.table())
                products.append(folder / names.LABEL_NOISE)
            job.finish(products, epoch=outcome.epoch, early=outcome.stopped_early)
            (job.private / ROWS).unlink(missing_ok=True)
    return _finished(settings, folder, data, tasks, model)


def _fit(
    settings: TrainSettings,
    folder: Path,
    found: Subject,
    tasks: Tasks | None,
    job: jobs.Job,
    runtime: Runtime,
) -> Trained:
    model, data = found.model, found.data

    def measure(epoch: int) -> dict[str, float]:
        """Over the classes that the epoch was trained on; nothing of those without images."""
        classes = None if tasks is None else tasks.seen(tasks.at(epoch - 1)).to(data.fit.device)
        wanted: dict[str, Samples] = {}
        if settings.patience is not None or tasks is not None:
            wanted["val"] = data.val
        if settings.eval_every and epoch % settings.eval_every == 0:
            wanted["test" if data.use_test else "val"] = data.held_out
        out: dict[str, float] = {}
        for name, samples in wanted.items():
            score = incremental.score(model, samples, classes, settings.batch_size)
            if score is not None:
                out |= {f"{name}_loss": score.loss, f"{name}_accuracy": score.accuracy}
        return out

    about = found.trained(settings, seed=settings.seed, wd=settings.wd, tasks=incremental.describe(tasks))
    problem = NetworkProblem(model, settings.wd)
    assert settings.epochs is not None
    recipe = recipe_of(
        settings,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        seed=settings.seed,
        period=None if tasks is None else tasks.epochs,
    )
    keeping = Keeping(folder, settings.save_freq, about, settings.patience, settings.min_delta, tasks=tasks)
    watchers = _watchers(settings, folder, job.private, data, tasks, runtime)
    try:
        outcome = train(problem, data.fit, recipe, runtime, job, keeping, measure, watchers)
    finally:
        for watcher in watchers:
            watcher.close()
    for watcher in watchers:
        if isinstance(watcher, TrackingRows):
            watcher.pack((folder / names.TRACKING).with_suffix(".npz"))
    return outcome


def _watchers(
    settings: TrainSettings,
    folder: Path,
    private: Path,
    data: Data,
    tasks: Tasks | None,
    runtime: Runtime,
) -> list[Watcher]:
    """What is written down of every sample while it trains."""
    out: list[Watcher] = []
    if settings.track_samples:
        memo = {} if settings.memo_scores is None else memo_scores.as_text(settings.memo_scores)
        _compare_ids(memo, data, runtime)
        of = (memo, Curriculum(data.fit, tasks), settings.batch_size, settings.track_every)
        if settings.track_format == "npz":
            out.append(TrackingRows(private / ROWS, *of))
        else:
            out.append(Tracking(folder / names.TRACKING, *of))
    if settings.record_csl:
        out.append(Recording(folder / names.RECORDED, data.name, data.fit))
    return out


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


def _finished(
    settings: TrainSettings, folder: Path, data: Data, tasks: Tasks | None, model: nn.Module
) -> Network:
    """Read a finished run back and measure its last checkpoint, and what each task ended with."""
    assert settings.epochs is not None
    rows = [json.loads(line) for line in files.read_lines(folder / names.METRICS)]
    last: dict[str, Any] = rows[-1] if rows else {"epoch": 0}
    path = folder / names.checkpoint(last["epoch"])
    measured: list[TaskResult] = []
    classes = None
    if tasks is not None:
        measured = incremental.measure(folder, last["epoch"], tasks, model, data, settings.batch_size)
        classes = tasks.seen(tasks.at(max(last["epoch"] - 1, 0))).to(data.fit.device)
    weights.load_into(model, checkpoints.read(path).state, str(path))
    weights_of = last.get("weights_of_epoch", last["epoch"])
    shown = next((row for row in rows if row["epoch"] == weights_of), last)
    score = incremental.score(model, data.held_out, classes, settings.batch_size)
    return Network(
        seed=settings.seed,
        checkpoint=str(path),
        epoch=last["epoch"],
        weights_of_epoch=weights_of,
        train_loss=shown.get("train_loss"),
        train_accuracy=shown.get("train_accuracy"),
        held_out="test" if data.use_test else "val",
        held_out_loss=None if score is None else score.loss,
        held_out_accuracy=None if score is None else score.accuracy,
        stopped_early=last["epoch"] < settings.epochs,
        tasks=tuple(measured),
    )
