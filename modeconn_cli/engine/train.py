"""`mcx train`: networks from scratch, one folder per seed."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from modeconn_cli.engine import checkpoints, datasets, files, jobs, models, names, weights
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.datasets.samples import spans
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.records import Record
from modeconn_cli.engine.runtime import Runtime
from modeconn_cli.engine.settings.train import TrainSettings
from modeconn_cli.engine.training import NetworkProblem, evaluate, recipe_of
from modeconn_cli.engine.training.folder import OWNED, Keeping, Trained, train


@dataclass(frozen=True, kw_only=True)
class Network:
    """One trained network. Losses in nats, accuracies in percent."""

    seed: int
    checkpoint: str
    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    held_out: str
    held_out_loss: float
    held_out_accuracy: float
    stopped_early: bool


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
    if settings.output_dir is None:
        raise SettingsError("no folder for the results", "pass --output-dir DIR")
    if settings.model is None:
        raise SettingsError("no network", "pass --model NAME")
    data = datasets.load(settings, runtime.device)
    if settings.patience is not None and len(data.val) == 0:
        raise SettingsError(
            "early stopping watches validation images and there are none", "pass --val-size N"
        )
    arch = models.architecture(settings, num_classes=data.num_classes, input_shape=data.input_shape)
    if arch.num_classes < data.num_classes:
        raise SettingsError(
            f"the network has {arch.num_classes} classes, data set '{data.name}' has {data.num_classes}",
            f"pass --num-classes {data.num_classes}",
        )
    seeds = settings.seeds or (settings.seed,)
    if len(set(seeds)) < len(seeds):
        raise SettingsError(f"--seeds {','.join(map(str, seeds))} names a seed twice")
    model = models.build(arch)
    size = weights.count(dict(model.named_parameters()))
    _probe(model, arch)
    steps = len(spans(len(data.fit), settings.batch_size, merge_single=True))
    if runtime.plan(
        [
            f"train {arch.model} ({size:,} parameters) on {data.name}: {len(data.fit):,} images, "
            f"{len(seeds)} x {settings.epochs} epochs of {steps} steps on {runtime.device}, {runtime.threads} threads",
            f"results in {settings.output_dir}, a checkpoint every {settings.save_freq or settings.epochs} epochs",
        ]
    ):
        return None
    networks = [
        _train_one(
            replace(settings, seed=seed, seeds=()), settings.output_dir / f"seed{seed}", data, arch, runtime
        )
        for seed in seeds
    ]
    return TrainResult(
        model=arch.model, dataset=data.name, num_params=size, epochs=settings.epochs, networks=tuple(networks)
    )


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
    settings: TrainSettings, folder: Path, data: Data, arch: models.Architecture, runtime: Runtime
) -> Network:
    with runtime.catching_signals(), jobs.opened(settings, folder, "train", runtime, owned=OWNED) as job:
        model = models.build(arch, settings.seed).to(runtime.device)
        if not job.complete:
            outcome = _fit(settings, folder, data, arch, model, job, runtime)
            products = [outcome.checkpoint, folder / names.METRICS]
            if data.flips is not None:
                files.write_text(folder / names.LABEL_NOISE, data.flips.table())
                products.append(folder / names.LABEL_NOISE)
            job.finish(products, epoch=outcome.epoch, early=outcome.stopped_early)
    return _finished(settings, folder, data, model)


def _fit(
    settings: TrainSettings,
    folder: Path,
    data: Data,
    arch: models.Architecture,
    model: nn.Module,
    job: jobs.Job,
    runtime: Runtime,
) -> Trained:
    def measure(epoch: int) -> dict[str, float]:
        out: dict[str, float] = {}
        if settings.patience is not None:
            score = evaluate(model, data.val, settings.batch_size)
            out |= {"val_loss": score.loss, "val_accuracy": score.accuracy}
        if settings.eval_every and epoch % settings.eval_every == 0:
            score = evaluate(model, data.held_out, settings.batch_size)
            name = "test" if data.use_test else "val"
            out |= {f"{name}_loss": score.loss, f"{name}_accuracy": score.accuracy}
        return out

    about = {
        "schema": checkpoints.SCHEMA,
        **arch.describe(),
        **data.remembered,
        "seed": settings.seed,
        "wd": settings.wd,
        "buffers": weights.not_parameters(model),
        "settings": settings.lasting(),
    }
    problem = NetworkProblem(model, settings.wd)
    recipe = recipe_of(settings, epochs=settings.epochs, batch_size=settings.batch_size, seed=settings.seed)
    keeping = Keeping(folder, settings.save_freq, about, settings.patience, settings.min_delta)
    return train(problem, data.fit, recipe, runtime, job, keeping, measure)


def _finished(settings: TrainSettings, folder: Path, data: Data, model: nn.Module) -> Network:
    """Read a finished run back and measure its last checkpoint."""
    rows = [json.loads(line) for line in files.read_lines(folder / names.METRICS)]
    last: dict[str, Any] = rows[-1] if rows else {"epoch": 0}
    path = folder / names.checkpoint(last["epoch"])
    weights.load_into(model, checkpoints.read(path).state, str(path))
    score = evaluate(model, data.held_out, settings.batch_size)
    return Network(
        seed=settings.seed,
        checkpoint=str(path),
        epoch=last["epoch"],
        train_loss=last.get("train_loss"),
        train_accuracy=last.get("train_accuracy"),
        held_out="test" if data.use_test else "val",
        held_out_loss=score.loss,
        held_out_accuracy=score.accuracy,
        stopped_early=last["epoch"] < settings.epochs,
    )
