"""Incremental training: a growing set of classes, and how well each task is known in the end of every other.

Protocol: Dohare et al. 2024, Loss of plasticity in deep continual learning.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modeconn_cli.engine import arrays, checkpoints, files, keyed, names, weights
from modeconn_cli.engine.datasets import Data, Samples
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.figures import COLOURS, png
from modeconn_cli.engine.settings.train import TaskSettings
from modeconn_cli.engine.training import evaluate
from modeconn_cli.engine.training.tasks import Tasks

ORDER, TABLE, FIGURE = "class_order.npy", "tasks.csv", "tasks.png"


@dataclass(frozen=True)
class TaskResult:
    """The weights a task ended with, over all classes seen by then. Accuracies in percent, on held-out images.

    `of_tasks`: the accuracy on the classes of each task so far, with logits over all classes seen.
    """

    task: int
    classes: tuple[int, ...]  # added by this task
    seen: int
    epoch: int  # of the weights
    val_accuracy: float | None
    loss: float
    accuracy: float
    of_tasks: tuple[float, ...]


def tasks_of(settings: TaskSettings, num_classes: int, seed: int) -> Tasks | None:
    """The tasks that settings ask for. Raises SettingsError or InputError for an order that is none."""
    if settings.classes_per_task is None:
        if settings.class_order is not None:
            raise SettingsError("--class-order has a meaning with --classes-per-task only")
        return None
    if settings.class_order is None:
        order = keyed.permutation(seed, "class order", num_classes)
    else:
        order = read_order(settings.class_order, num_classes)
    return Tasks(tuple(order.tolist()), settings.classes_per_task, settings.epochs_per_task)


def read_order(path: Path, num_classes: int) -> Tensor:
    """The classes in the order they are learnt, int64 [C]. Raises InputError for what is no permutation of them."""
    order = np.array(arrays.read(path, kinds="iu"), dtype=np.int64)
    if sorted(order.ravel().tolist()) != list(range(num_classes)):
        raise InputError(f"'{path}' is no permutation of the {num_classes} classes")
    return torch.from_numpy(order.ravel())


def describe(tasks: Tasks | None) -> dict[str, Any]:
    """What a checkpoint says of them."""
    return {} if tasks is None else {"tasks": {**asdict(tasks), "order": list(tasks.order)}}


def of_classes(samples: Samples, classes: Tensor) -> Samples:
    """The samples of some classes."""
    rows = torch.isin(samples.labels, classes.to(samples.device)).nonzero()[:, 0]
    return samples if len(rows) == len(samples) else samples.take(rows)


def write_order(folder: Path, tasks: Tasks) -> Path:
    path = folder / ORDER
    files.write_array(path, np.array(tasks.order, dtype=np.int64))
    return path


def finished(folder: Path, epochs: int, tasks: Tasks) -> list[Path]:
    """The checkpoints of the tasks that a run of so many epochs has been through."""
    last = tasks.at(max(epochs - 1, 0)) if epochs else -1
    return [folder / names.task(task) for task in range(last + 1)]


def measure(
    paths: list[Path], tasks: Tasks, model: nn.Module, data: Data, batch_size: int
) -> list[TaskResult]:
    """Every task's checkpoint on the held-out images of the classes seen by then."""
    out = []
    for task, path in enumerate(paths):
        checkpoint = checkpoints.read(path)
        weights.load_into(model, checkpoint.state, str(path))
        classes = tasks.seen(task).to(data.fit.device)

        def accuracy(numbers: Tensor, seen: Tensor = classes) -> tuple[float, float]:
            part = of_classes(data.held_out, numbers)
            if len(part) == 0:
                return float("nan"), float("nan")
            score = evaluate(model, part, batch_size, seen)
            return score.loss, score.accuracy

        loss, whole = accuracy(classes)
        val = of_classes(data.val, classes)
        out.append(
            TaskResult(
                task=task,
                classes=tasks.added(task),
                seen=len(classes),
                epoch=checkpoint.epoch or 0,
                val_accuracy=evaluate(model, val, batch_size, classes).accuracy if len(val) else None,
                loss=loss,
                accuracy=whole,
                of_tasks=tuple(accuracy(torch.tensor(tasks.added(k)))[1] for k in range(task + 1)),
            )
        )
    return out


def write(folder: Path, results: list[TaskResult]) -> list[Path]:
    """The table and the figure of all tasks."""
    paths = [folder / TABLE, folder / FIGURE]
    files.write_text(paths[0], table(results))
    files.atomic_write(paths[1], figure(results))
    return paths


def table(results: list[TaskResult]) -> str:
    """CSV, a row per task: accuracy over all classes seen, and on those of each task."""
    header = ["task", "classes", "seen", "epoch", "val_accuracy", "loss", "accuracy"]
    header += [f"accuracy_task_{k}" for k in range(len(results))]
    rows = [
        [
            r.task, " ".join(map(str, r.classes)), r.seen, r.epoch, r.val_accuracy, r.loss, r.accuracy,
            *r.of_tasks, *[None] * (len(results) - len(r.of_tasks)),
        ]
        for r in results
    ]  # fmt: skip
    return files.csv_text(header, rows)


def figure(results: list[TaskResult]) -> bytes:
    """Accuracy over all classes seen in the end of every task, and of each task in the end of every later one."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = drawn.subplots(1, 2)
    left.plot([r.seen for r in results], [r.accuracy for r in results], color=COLOURS[1], marker=".")
    left.set_xlabel("classes seen")
    left.set_ylabel("accuracy over the classes seen (%)")
    left.grid(alpha=0.25)
    grid = np.full((len(results), len(results)), np.nan)
    for row, result in enumerate(results):
        grid[row, : row + 1] = result.of_tasks
    image = right.imshow(grid, cmap="viridis", interpolation="nearest")
    right.set_xlabel("classes of task")
    right.set_ylabel("in the end of task")
    shown = range(0, len(results), max(1, -(-len(results) // 10)))
    right.set_xticks(list(shown))
    right.set_yticks(list(shown))
    drawn.colorbar(image, ax=right, label="accuracy (%)")
    return png(drawn)
