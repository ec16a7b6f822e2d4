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

from modeconn_cli.engine import keyed, names
from modeconn_cli.engine.datasets import Data, Samples
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.networks import checkpoints, weights
from modeconn_cli.engine.results import arrays, files
from modeconn_cli.engine.results.figures import COLOURS, png
from modeconn_cli.engine.settings.train import TaskSettings
from modeconn_cli.engine.training import Score, evaluate
from modeconn_cli.engine.training.tasks import Tasks

ORDER, TABLE, FIGURE = "class_order.npy", "tasks.csv", "tasks.png"


@dataclass(frozen=True)
class TaskResult:
    """The weights a task ended with, over all classes seen by then. Accuracies in percent, on held-out images.

    `of_tasks`: the accuracy on the classes of each task so far, with logits over all classes seen. None where there
    is no image.
    """

    task: int
    classes: tuple[int, ...]  # added by this task
    seen: int
    epoch: int  # of the weights
    epochs: int  # that the task was trained for
    val_accuracy: float | None
    loss: float | None
    accuracy: float | None
    of_tasks: tuple[float | None, ...]


def tasks_of(settings: TaskSettings, num_classes: int, seed: int) -> Tasks | None:
    """The tasks that settings ask for. Raises SettingsError or InputError for an order that is none."""
    if settings.classes_per_task is None:
        return None
    if settings.class_order is None:
        order = keyed.permutation(seed, "class order", num_classes)
    else:
        order = read_order(settings.class_order, num_classes)
    return Tasks(tuple(order.tolist()), settings.classes_per_task, settings.epochs_per_task)


def read_order(path: Path, num_classes: int | None = None) -> Tensor:
    """The classes in the order they are learnt, int64 [C]. Raises InputError for what is no permutation of them, or
    of as many as there are in the file.
    """
    if not path.exists():
        raise InputError(f"'{path}' does not exist")
    order = np.array(arrays.read(path, kinds="iu"), dtype=np.int64).ravel()
    num_classes = len(order) if num_classes is None else num_classes
    missing = sorted(set(range(num_classes)) - set(order.tolist()))
    if missing or len(order) != num_classes:
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise InputError(
            f"'{path}' is no permutation of the {num_classes} classes",
            f"{shown} is missing" if missing else f"it has {len(order)} entries",
        )
    return torch.from_numpy(order)


def check(tasks: Tasks, data: Data, epochs: int) -> None:
    """Raises SettingsError for epochs after the last task, and for a first task without images."""
    if epochs > tasks.count * tasks.epochs:
        raise SettingsError(
            f"--epochs {epochs}, and the {tasks.count} tasks are over after {tasks.count * tasks.epochs}",
            "raise --epochs-per-task, or leave out --epochs",
        )
    first = tasks.seen(0)
    if not torch.isin(data.fit.labels.cpu(), first).any():
        raise SettingsError(f"no training image is of a class of the first task: {first.tolist()}")


def score(model: nn.Module, samples: Samples, classes: Tensor | None, batch_size: int) -> Score | None:
    """Over the images of some classes and their logits alone, or of all; None where there is no image."""
    part = samples if classes is None else of_classes(samples, classes)
    return evaluate(model, part, batch_size, classes) if len(part) else None


def describe(tasks: Tasks | None) -> dict[str, Any] | None:
    """What a checkpoint says of them."""
    return None if tasks is None else {**asdict(tasks), "order": list(tasks.order)}


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
    folder: Path, epochs: int, tasks: Tasks, model: nn.Module, data: Data, batch_size: int
) -> list[TaskResult]:
    """Every task's weights in a run of so many epochs, on the held-out images of the classes seen by then."""
    out = []
    for task, path in enumerate(finished(folder, epochs, tasks)):
        checkpoint = checkpoints.read(path)
        weights.load_into(model, checkpoint.state, str(path))
        classes = tasks.seen(task).to(data.fit.device)

        def accuracy(numbers: Tensor, seen: Tensor = classes) -> float | None:
            part = of_classes(data.held_out, numbers)
            return evaluate(model, part, batch_size, seen).accuracy if len(part) else None

        whole = score(model, data.held_out, classes, batch_size)
        val = score(model, data.val, classes, batch_size)
        out.append(
            TaskResult(
                task=task,
                classes=tasks.added(task),
                seen=len(classes),
                epoch=checkpoint.epoch or 0,
                epochs=min(tasks.epochs, epochs - task * tasks.epochs),
                val_accuracy=None if val is None else val.accuracy,
                loss=None if whole is None else whole.loss,
                accuracy=None if whole is None else whole.accuracy,
                of_tasks=tuple(accuracy(torch.tensor(tasks.added(k))) for k in range(task + 1)),
            )
        )
    return out


def write(folder: Path, results: list[TaskResult]) -> list[Path]:
    """The table and the figure of all tasks; a run of no epochs has no figure."""
    files.write_text(folder / TABLE, table(results))
    if not results:
        return [folder / TABLE]
    files.atomic_write(folder / FIGURE, figure(results))
    return [folder / TABLE, folder / FIGURE]


def table(results: list[TaskResult]) -> str:
    """CSV, a row per task: accuracy over all classes seen, and on those of each task."""
    header = ["task", "classes", "seen", "epoch", "epochs", "val_accuracy", "loss", "accuracy"]
    header += [f"accuracy_task_{k}" for k in range(len(results))]
    rows = [
        [
            r.task, " ".join(map(str, r.classes)), r.seen, r.epoch, r.epochs, r.val_accuracy, r.loss, r.accuracy,
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
    accuracies = [np.nan if r.accuracy is None else r.accuracy for r in results]
    left.plot([r.seen for r in results], accuracies, color=COLOURS[1], marker=".")
    left.set_xlabel("classes seen")
    left.set_ylabel("accuracy over the classes seen (%)")
    left.grid(alpha=0.25)
    grid = np.full((len(results), len(results)), np.nan)
    for row, result in enumerate(results):
        grid[row, : row + 1] = [np.nan if value is None else value for value in result.of_tasks]
    image = right.imshow(grid, cmap="viridis", interpolation="nearest", vmin=0, vmax=100)
    right.set_xlabel("classes of task")
    right.set_ylabel("after task")
    shown = range(0, len(results), max(1, -(-len(results) // 10)))
    right.set_xticks(list(shown))
    right.set_yticks(list(shown))
    drawn.colorbar(image, ax=right, label="accuracy (%)")
    return png(drawn)
