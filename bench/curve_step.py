"""A training step of a Bezier curve with three control points against a plain SGD step."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from bench import counts, networks
from bench.pairs import Pair
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.paths.path import WeightPath
from modeconn_cli.engine.paths.problem import PathProblem
from modeconn_cli.engine.training.loop import Recipe, make_optimizer, step

LR, MOMENTUM, DECAY = 0.01, 0.9, 5e-4


def prepare(_folder: Path, batch_size: int) -> Pair:
    """The step is the one that fit() takes; both sides see the same batch of images every time."""
    images, labels = networks.images(batch_size)
    batch = Batch(images, labels, torch.arange(batch_size))
    recipe = Recipe(
        epochs=1, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, optimizer="sgd", schedule="constant",
        batch_size=batch_size, seed=0, data_seed=0,
    )  # fmt: skip
    model = networks.network().train()
    curve = WeightPath.through("bezier", networks.control_points(), model)
    problem = PathProblem(model, curve, weight_decay=DECAY, seed=0)
    optimizer = make_optimizer(problem, recipe)
    numbers = iter(range(1 << 62))

    def ours() -> None:
        step(problem, optimizer, batch, next(numbers), recipe.seed)

    plain = networks.network().train()
    sgd = torch.optim.SGD(plain.parameters(), LR, momentum=MOMENTUM, weight_decay=DECAY)

    def reference() -> None:
        sgd.zero_grad()
        loss = F.cross_entropy(plain(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()

    with counts.passes(model) as found:
        ours()
    return Pair(ours, reference, (f"{found['forward']} forward and {found['backward']} backward a step",))
