"""`mcx train`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from modeconn_cli.cli.options import takes
from modeconn_cli.cli.report import Report
from modeconn_cli.cli.tables import Block, Table, epoch_words, number
from modeconn_cli.engine.settings.train import TrainSettings

if TYPE_CHECKING:
    from modeconn_cli.engine.commands.train import TrainResult

app = typer.Typer()


@app.command("train")
@takes(TrainSettings, "train")
def train(settings: TrainSettings, report: Report) -> None:
    """Train networks, one per seed; a run that was interrupted continues.

    Writes checkpoint-<epoch>.pt (0 is before training) and metrics.jsonl to <output-dir>/seed<k>/.

    Examples:
      mcx train --model cnn --dataset digits --epochs 5 --save-freq 1 --seeds 0,1 --output-dir runs
      mcx train --model mlp --dataset digits --label-noise 0.1 --epochs 2 --output-dir noisy

    More: mcx help models, mcx help data.
    """
    from modeconn_cli.engine.commands import train as engine

    report.run(engine.run, settings, table)


def table(result: TrainResult) -> list[Block]:
    rows = tuple(
        (
            f"seed{network.seed}",
            epoch_words(network.epoch, network.weights_of_epoch),
            number(network.train_loss, 4),
            number(network.train_accuracy, 2),
            number(network.held_out_loss, 4),
            number(network.held_out_accuracy, 2),
            network.checkpoint,
        )
        for network in result.networks
    )
    held_out = result.networks[0].held_out
    columns = (
        "run",
        "epoch",
        "train loss",
        "train acc (%)",
        f"{held_out} loss",
        f"{held_out} acc (%)",
        "checkpoint",
    )
    tasks = [
        Table(
            f"Tasks of seed{network.seed} (accuracies in percent, {held_out} images of the classes seen)",
            (
                "task",
                "classes",
                "seen",
                "best epoch",
                "val acc",
                f"{held_out} acc",
                "first task",
                "newest task",
            ),
            tuple(
                (
                    str(task.task),
                    " ".join(map(str, task.classes)),
                    str(task.seen),
                    str(task.epoch),
                    number(task.val_accuracy, 2),
                    number(task.accuracy, 2),
                    number(task.of_tasks[0], 2),
                    number(task.of_tasks[-1], 2),
                )
                for task in network.tasks
            ),
            text_columns=0,
        )
        for network in result.networks
        if network.tasks
    ]
    return [
        *tasks,
        Table(f"{result.model} on {result.dataset} ({result.num_params:,} parameters)", columns, rows),
    ]
