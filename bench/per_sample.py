"""Scoring ResNet-18 (CIFAR stem) with norms of the parameters' gradients, against training's forward and backward.

The other references are what people do today: the document's loop, which runs backward over the batch's graph once
per sample, and a loop of one.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from bench import counts
from bench.pairs import Pair
from modeconn_cli.engine.samples.per_sample import PerSample

SHAPE, CLASSES, BATCH = (3, 32, 32), 100, 64


def network() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.resnet18(num_classes=CLASSES)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(32, *SHAPE))
    return model.eval()


def batch(count: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(count, *SHAPE), torch.randint(0, CLASSES, (count,))


def against_training(_folder: Path) -> Pair:
    """With the weight decay term, as `mcx csl score` has it by default."""
    model, (images, labels) = network(), batch(BATCH)
    engine = PerSample(model, SHAPE, "param", inner=True)

    def plain() -> None:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]

    exact = document(model, images[:4], labels[:4])
    found = engine.score(images[:4], labels[:4]).squares
    assert found is not None
    error = float((found.sqrt() / exact.double() - 1).abs().max())
    return Pair(
        lambda: engine.score(images, labels),
        plain,
        (f"largest relative difference from a loop: {error:.1e}",),
    )


def against_document(_folder: Path, count: int) -> Pair:
    """The document's loop at a smaller batch: its time grows with the square of it."""
    model, (images, labels) = network(), batch(count)
    engine = PerSample(model, SHAPE, "param")
    return Pair(lambda: engine.score(images, labels), lambda: document(model, images, labels))


def by_input(_folder: Path) -> Pair:
    """Gradient norms by the input against one forward and backward of the same batch, weights included."""
    model, (images, labels) = network(), batch(BATCH)
    engine = PerSample(model, SHAPE, "input")

    def plain() -> None:
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]

    with counts.passes(model) as found:
        engine.score(images, labels)
    fact = f"{found['forward']} forward, {found['backward']} backwards to the weights for {BATCH} samples"
    return Pair(lambda: engine.score(images, labels), plain, (fact,))


def document(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Norms [N]: one forward of the batch, then a backward over its graph for each sample."""
    parameters = list(model.parameters())
    losses = F.cross_entropy(model(images), labels, reduction="none")
    norms = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True)
        norms.append(torch.sqrt(torch.stack([(g**2).sum() for g in found]).sum()))
    return torch.stack(norms)
