"""What it costs to write down every sample of a batch, against the training step that it accompanies."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from bench.pairs import Pair
from modeconn_cli.engine import models
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.models import Architecture
from modeconn_cli.engine.training.loop import Step
from modeconn_cli.engine.training.tasks import Tasks
from modeconn_cli.engine.training.watchers import Tracking

CLASSES, SHAPE = 10, (1, 8, 8)


def prepare(folder: Path, count: int) -> Pair:
    """The smallest network that there is a preset for, that of the digits; larger ones take the same rows."""
    torch.manual_seed(0)
    images, labels = torch.randn(count, *SHAPE), torch.randint(0, CLASSES, (count,))
    batch = Batch(images, labels, torch.randperm(50_000)[:count])
    model = models.build(Architecture("cnn", CLASSES, SHAPE, {}), seed=0).train()
    sgd = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    path = folder / "tracking.csv"
    tracking = Tracking(path, {}, Tasks(tuple(range(CLASSES)), 2, 8))
    tracking.begin(0, 0, {})
    numbers = iter(range(1 << 62))
    nothing = torch.zeros(())

    def ours() -> None:
        tracking.step(0, next(numbers), batch, Step(nothing, 0.0, nothing, labels))

    def reference() -> None:
        sgd.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        sgd.step()

    size = path.stat().st_size
    ours()
    return Pair(ours, reference, (f"{path.stat().st_size - size:,} bytes in one write for {count} samples",))
