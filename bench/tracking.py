"""What it costs to write down every sample of an epoch, against the training that it accompanies."""

from __future__ import annotations

from pathlib import Path

import torch

from bench.pairs import Pair
from modeconn_cli.engine import datasets
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import models
from modeconn_cli.engine.networks.models import Architecture
from modeconn_cli.engine.settings.shared import DataSettings
from modeconn_cli.engine.training import NetworkProblem
from modeconn_cli.engine.training.loop import Recipe, Step, fit, make_optimizer
from modeconn_cli.engine.training.tasks import Curriculum, Tasks
from modeconn_cli.engine.training.tracking import TrackedCsv


def prepare(folder: Path, count: int) -> Pair:
    """The smallest network that there is a preset for, that of the digits; larger ones take the same rows."""
    samples: Samples = datasets.load(DataSettings(dataset="digits"), torch.device("cpu")).fit
    arch = Architecture("cnn", 10, (1, 8, 8), {})
    problem = NetworkProblem(models.build(arch, seed=0), 5e-4)
    recipe = Recipe(
        epochs=1, lr=0.01, momentum=0.9, weight_decay=5e-4, optimizer="sgd", schedule="constant", batch_size=count,
        seed=0, data_seed=0,
    )  # fmt: skip
    path = folder / "tracking.csv"
    tracking = TrackedCsv(path, {}, Curriculum(samples, Tasks(tuple(range(10)), 2, 8)), count)
    tracking.begin(0, 0, {})
    batches = list(samples.batches(count))
    nothing = torch.zeros(())

    def ours() -> None:
        for number, batch in enumerate(batches):
            tracking.step(0, number, batch, Step(nothing, 0.0, nothing, batch.labels))

    def reference() -> None:
        for _ in fit(problem, make_optimizer(problem, recipe), samples, recipe, Runtime()):
            pass

    size = path.stat().st_size
    ours()
    written = path.stat().st_size - size
    return Pair(ours, reference, (f"{len(batches)} writes, {written:,} bytes for {len(samples):,} samples",))
