"""Curvature along ten directions of ResNet-18 (CIFAR stem), against the document's loop and against its floor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.apart import Apart
from bench.pairs import Pair
from bench.per_sample import SHAPE, batch, network
from modeconn_cli.engine.samples.per_sample.curvature import measure
from modeconn_cli.engine.samples.per_sample.execution import Execution

STEP, DIRECTIONS = 1e-3, 10
CHECKED = 64  # samples that are compared with float64


def against_document(_folder: Path, count: int) -> Pair:
    model, (images, labels) = network(), batch(count)
    execution = Execution(model, SHAPE)
    return Pair(
        lambda: ours(execution, images, labels), Apart(partial(_documented, count)), (accuracy(model),)
    )


def _documented(count: int) -> Callable[[], object]:
    return partial(document, network(), *batch(count))


def against_floor(_folder: Path, count: int) -> Pair:
    """As many passes to the input as have to be made, with nothing in between."""
    (images, labels), passes = batch(count), [0]
    execution = Execution(network(), SHAPE)

    def floor() -> None:
        for _ in range(DIRECTIONS + 1):
            inputs = images.clone().requires_grad_()
            torch.autograd.grad(F.cross_entropy(execution(inputs), labels, reduction="sum"), inputs)

    def counted(images: Tensor) -> Tensor:
        passes[0] += 1
        return execution(images)

    measure(
        counted, images[:2], labels[:2], torch.arange(2), h=STEP, draws=DIRECTIONS, temperature=1.0, seed=0
    )
    fact = f"{passes[0]} forwards for {DIRECTIONS} directions; {execution.layout}"
    return Pair(lambda: ours(execution, images, labels), floor, (fact,))


def ours(execution: Execution, images: Tensor, labels: Tensor) -> Tensor:
    ids = torch.arange(len(images))
    return measure(
        execution, images, labels, ids, h=STEP, draws=DIRECTIONS, temperature=1.0, seed=0
    ).curvature


def document(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The document's loop, [N]."""
    count = len(images)
    inputs = images.clone().requires_grad_()
    total = torch.zeros(count)
    for _ in range(DIRECTIONS):
        v = STEP * (torch.randint_like(images, high=2) * 2 - 1)
        perturbed = F.cross_entropy(model(inputs + v), labels)
        original = F.cross_entropy(model(inputs), labels)
        (gradient,) = torch.autograd.grad(perturbed - original, inputs)
        total += gradient.reshape(count, -1).norm(dim=1)
    return total / DIRECTIONS


def accuracy(model: nn.Module) -> str:
    """Relative differences from the same in float64, of a few samples."""
    images, labels = batch(CHECKED)
    found = ours(Execution(model, SHAPE), images, labels)
    exact = ours(Execution(copy.deepcopy(model).double(), SHAPE), images.double(), labels)
    off = (found / exact - 1).abs()
    median, tail = float(off.median()), float(off.quantile(0.99))
    return f"relative difference from float64: median {median:.1e}, 99th percentile {tail:.1e}"
