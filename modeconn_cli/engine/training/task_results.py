"""How well each task of a run is known in the end of every other: the weights that its tasks ended with, measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from modeconn_cli.engine import names
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.subject import read_own
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.figures import COLOURS, png
from modeconn_cli.engine.training import evaluation
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


def measure(
    folder: Path, epochs: int, tasks: Tasks, model: nn.Module, data: Data, batch_size: int
) -> list[TaskResult]:
    """Every task's weights in a run of so many epochs, on the held-out images of the classes seen by then."""
    out = []
    for task in tasks.begun(epochs):
        path = folder / names.task(task)
        checkpoint = read_own(path)
        weights.load_into(model, checkpoint.whole, str(path))
        classes = tasks.seen(task).to(data.fit.device)

        def accuracy(numbers: tuple[int, ...], classes: Tensor = classes) -> float | None:
            part = evaluation.of_classes(data.held_out, torch.tensor(numbers))
            found = evaluation.evaluate_seen(model, part, classes, batch_size)
            return None if found is None else found.accuracy

        whole = evaluation.evaluate_seen(model, data.held_out, classes, batch_size)
        val = evaluation.evaluate_seen(model, data.val, classes, batch_size)
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
                of_tasks=tuple(accuracy(tasks.added(k)) for k in range(task + 1)),
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
