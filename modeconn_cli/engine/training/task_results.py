"""How well each task of a run is known in the end of every other: the weights that its tasks ended with, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from modeconn_cli.engine import names
from modeconn_cli.engine.datasets import Data
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.subject import read_own
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.figures import BLUE, WIDTH, draw_cells, page, whole_numbers
from modeconn_cli.engine.settings.shared import FigureSettings, in_every_format
from modeconn_cli.engine.training import evaluation
from modeconn_cli.engine.training.tasks import Tasks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

ORDER, TABLE, FIGURE = "class_order.npy", "tasks.csv", "tasks.png"
OWNED = (ORDER, TABLE, *in_every_format(FIGURE))
WRITTEN = 20  # tasks up to which cells hold their number


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
    own = [evaluation.of_classes(data.held_out, torch.tensor(tasks.added(k))) for k in tasks.begun(epochs)]
    for task in tasks.begun(epochs):
        path = folder / names.task(task)
        checkpoint = read_own(path)
        weights.load_into(model, checkpoint.whole, str(path))
        classes = tasks.seen(task).to(data.fit.device)

        def accuracy(rows: Tensor, classes: Tensor = classes) -> float | None:
            part = evaluation.only(data.held_out, rows)
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
                of_tasks=tuple(map(accuracy, own[: task + 1])),
            )
        )
    return out


def write(folder: Path, results: list[TaskResult], title: str, look: FigureSettings) -> list[Path]:
    """The table and the figure of all tasks; a run of no epochs has no figure."""
    files.write_text(folder / TABLE, table(results))
    if not results:
        return [folder / TABLE]
    drawn = folder / look.named(FIGURE)
    files.atomic_write(drawn, figure(results, title, look))
    return [folder / TABLE, drawn]


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


def figure(results: list[TaskResult], title: str, look: FigureSettings) -> bytes:
    """Accuracy over all classes seen in the end of every task, and of each task in the end of every later one."""
    side = min(6.0, max(2.2, 0.26 * len(results) + 0.9))
    with page(
        look, title, 2, width=max(WIDTH, side + 1.0), gridspec_kw={"height_ratios": [1.8, side]}
    ) as drawn:
        above, below = drawn.panels
        draw_seen(above, results)
        drawn.figure.colorbar(draw_tasks(below, results), ax=below, label="accuracy (%)")
    return drawn.content


def draw_seen(axis: Axes, results: Sequence[TaskResult]) -> None:
    """Accuracy over all classes seen in the end of every task: `answer.result.networks[0].tasks` of `api.train`."""
    accuracies = [np.nan if r.accuracy is None else r.accuracy for r in results]
    axis.plot([r.seen for r in results], accuracies, color=BLUE, marker="o")
    axis.set_ylabel("accuracy over\nthe classes seen (%)")
    whole_numbers(axis, "classes seen")


def draw_tasks(axis: Axes, results: Sequence[TaskResult]) -> AxesImage:
    """Accuracy on the classes of each task in the end of every task, in numbers where they fit; returns the image.

    `results` are `answer.result.networks[0].tasks` of `api.train`.
    """
    grid = np.full((len(results), len(results)), np.nan)
    for row, result in enumerate(results):
        grid[row, : row + 1] = [np.nan if value is None else value for value in result.of_tasks]
    image = draw_cells(axis, grid, low=0, high=100, form=".0f", written=len(results) <= WRITTEN)
    axis.set_xlabel("classes of task")
    axis.set_ylabel("after task")
    shown = list(range(0, len(results), max(1, -(-len(results) // 10))))
    axis.set_xticks(shown)
    axis.set_yticks(shown)
    return image
