"""What it costs to record the training dynamics of every sample, against the training that it accompanies."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch.nn import functional as F

from bench.pairs import Pair, Seconds
from modeconn_cli.engine.networks import models
from modeconn_cli.engine.networks.models import Architecture
from modeconn_cli.engine.training.recorder import Recorder

SAMPLES, BATCH, CLASSES = 50_000, 128, 10  # CIFAR's training images
STEPS = -(-SAMPLES // BATCH)


def prepare(folder: Path) -> Pair:
    """All calls of an epoch, its files among them; of the training one step is taken, and counted for all."""
    torch.manual_seed(0)
    model = models.build(Architecture("resnet18", CLASSES, (3, 32, 32), {}), seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % CLASSES
    rec = Recorder(folder, range(SAMPLES))
    order = torch.randperm(SAMPLES)
    parts = [order[begin : begin + BATCH] for begin in range(0, SAMPLES, BATCH)]
    batches = [(ids, torch.randn(len(ids), CLASSES), ids % CLASSES) for ids in parts]

    def ours() -> None:
        for batch in batches:
            rec.step(*batch)
        rec.epoch_end()

    def reference() -> Seconds:
        begun = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return Seconds(STEPS * (time.perf_counter() - begun))

    return Pair(ours, reference, (f"{STEPS} steps of ResNet-18, {SAMPLES:,} samples of {CLASSES} classes",))
