"""Every sample's gradient itself, for networks that the graph does not take apart: by torch.func, or one by one.

torch.func saves the calls of a loop and pays by writing the gradients of many samples. On two CPU cores it was 1.4 to
8 times as fast as a loop up to 20,000 parameters and 0.3 to 0.9 times from 220,000 on; on an H100 5 to 29 times up to
4 million, 1.2 times at 11 million and 0.6 times at 23 million. Both agree to float32's rounding. The choice follows
from the number of parameters, not from a clock, so that all processes and all runs make the same one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import one_sample
from modeconn_cli.engine.networks.forward import forward, guard

GRADIENTS = 1 << 26  # elements of per-sample gradients that exist at a time
LARGEST = {"cpu": 100_000}  # parameters from which on a loop is faster
LARGEST_ELSEWHERE = 15_000_000

Parameters = Mapping[str, nn.Parameter]
Gradients = tuple[
    slice, Tensor, dict[str, Tensor]
]  # of some rows of a batch: losses [n], gradients [n, …] by name


class Loss(Protocol):
    """The losses of a batch's samples."""

    def targets(self, logits: Tensor, rows: slice) -> Tensor:
        """What the samples in some rows of the batch are held against, [n], given their logits [n, classes]."""

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses [n] of logits [n, classes]."""


def batches_pay(parameters: Parameters) -> bool:
    """Whether torch.func is faster than a loop for parameters of this number, on their device."""
    device = next(iter(parameters.values())).device.type if parameters else "cpu"
    return sum(p.numel() for p in parameters.values()) <= LARGEST.get(device, LARGEST_ELSEWHERE)


def gradients(
    model: nn.Module, parameters: Parameters, images: Tensor, loss: Loss, note: Callable[[str], None]
) -> Iterator[Gradients]:
    """The gradients of samples by the faster of both ways; one by one where torch.func refuses a network."""
    if not batches_pay(parameters):
        yield from one_by_one(model, parameters, images, loss)
        return
    size = max(1, GRADIENTS // max(sum(p.numel() for p in parameters.values()), 1))
    for start in range(0, len(images), size):
        rows = slice(start, min(start + size, len(images)))
        if rows.stop == start + 1:
            yield from one_by_one(model, parameters, images[: rows.stop], loss, start)
            continue
        with torch.no_grad():
            logits = forward(model, images[rows])
            targets = loss.targets(logits, rows)
        try:
            with guard("torch.func refused"):
                found = _batched(model, parameters, images[rows], targets, loss)
        except (InputError, torch.OutOfMemoryError) as error:
            note(f"one sample at a time: {str(error).splitlines()[0][:180]}")
            yield from one_by_one(model, parameters, images, loss, start)
            return
        yield rows, loss.losses(logits, targets), found


def one_by_one(
    model: nn.Module, parameters: Parameters, images: Tensor, loss: Loss, start: int = 0
) -> Iterator[Gradients]:
    """The gradients of samples by plain autograd on batches of one, from a row on: true of any network."""
    for row in range(start, len(images)):
        rows = slice(row, row + 1)
        with guard("no gradient of a sample"), torch.enable_grad():
            with one_sample.exact(images[rows]):
                logits = model(images[rows])
            found = loss.losses(logits, loss.targets(logits.detach(), rows))
            by_parameter = torch.autograd.grad(found.sum(), list(parameters.values()), allow_unused=True)
        named = zip(parameters, by_parameter, strict=True)
        yield rows, found.detach(), {name: one.unsqueeze(0) for name, one in named if one is not None}


def _batched(
    model: nn.Module, parameters: Parameters, images: Tensor, targets: Tensor, loss: Loss
) -> dict[str, Tensor]:
    """∇_θ ℓ_i, [N, …] by name."""

    def alone(theta: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(model, theta, (image.unsqueeze(0),))
        return loss.losses(logits, target.unsqueeze(0)).sum()

    every = torch.func.vmap(torch.func.grad(alone), in_dims=(None, 0, 0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        found: dict[str, Tensor] = every(
            {name: p.detach() for name, p in parameters.items()}, images, targets
        )
    return found
