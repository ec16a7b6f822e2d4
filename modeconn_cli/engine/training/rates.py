"""How long training and evaluating take here: a few steps on the clock, for plans only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from modeconn_cli.engine.datasets import Samples
from modeconn_cli.engine.networks.untouched import untouched_copy
from modeconn_cli.engine.training.evaluation import evaluate
from modeconn_cli.engine.training.loop import Recipe, make_optimizer, step
from modeconn_cli.engine.training.network import NetworkProblem

FEW, TRIALS = 8, 3
LONG = 0.5  # seconds: a batch that would take longer is not tried whole


@dataclass(frozen=True)
class Rates:
    """Seconds per image."""

    train: float
    evaluate: float


def measure(model: nn.Module, samples: Samples, recipe: Recipe) -> Rates:
    """Rates of a copy of the model on some of the images; the model itself is left alone."""
    problem = NetworkProblem(untouched_copy(model), recipe.weight_decay)
    optimizer = make_optimizer(problem, recipe)

    def trained(part: Samples) -> None:
        problem.model.train()
        for batch in part.batches(recipe.batch_size, augment=(recipe.data_seed, 0)):
            step(problem, optimizer, batch, 0, recipe.seed)

    def evaluated(part: Samples) -> None:
        evaluate(problem.model, part, recipe.batch_size)

    sizes = [min(count, len(samples)) for count in (FEW, recipe.batch_size)]
    out = []
    for work in (trained, evaluated):
        rate = 0.0
        for size in sizes:
            if size * rate > LONG:
                break
            part = samples.take(torch.arange(size, device=samples.ids.device))
            work(part)  # the first call pays for what is set up once
            rate = min(_seconds(work, part, samples.device) for _ in range(TRIALS)) / size
        out.append(rate)
    return Rates(*out)


def _seconds(work: Callable[[Samples], None], part: Samples, device: torch.device) -> float:
    begun = time.perf_counter()
    work(part)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
