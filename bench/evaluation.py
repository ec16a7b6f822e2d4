"""Evaluating 2,000 images against the bare forward passes over batches that are ready."""

from __future__ import annotations

from pathlib import Path

import torch

from bench import counts, networks
from bench.pairs import Pair
from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.datasets.transforms import named
from modeconn_cli.engine.networks.models.cnn import cnn
from modeconn_cli.engine.training import evaluate

COUNT, BATCH_SIZE, WIDTH = 2000, 128, 16


def prepare(_folder: Path) -> Pair:
    """uint8 images, as data sets keep them; the reference gets them normalised."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, *networks.SHAPE), dtype=torch.uint8)
    labels = torch.randint(0, networks.CLASSES, (COUNT,))
    samples = Samples(pixels, labels, torch.arange(COUNT), named("half", networks.SHAPE[0]))
    model = cnn(networks.SHAPE, networks.CLASSES, WIDTH).eval()
    ready = torch.split((pixels.float() / 255 - 0.5) / 0.5, BATCH_SIZE)

    def reference() -> None:
        with torch.no_grad():
            for images in ready:
                model(images)

    with counts.passes(model) as found:
        evaluate(model, samples, BATCH_SIZE)
    fact = f"{found['forward']} forwards for {COUNT:,} images in batches of {BATCH_SIZE}"
    return Pair(lambda: evaluate(model, samples, BATCH_SIZE), reference, (fact,))
