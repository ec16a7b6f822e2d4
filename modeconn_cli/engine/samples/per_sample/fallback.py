"""Gradient norms of every sample by torch.func, in chunks; one sample at a time where that refuses too."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from modeconn_cli.engine.samples.per_sample.rules import by_sample

Losses = Callable[[Tensor, Tensor], Tensor]  # logits [N, classes], labels [N] -> losses [N]

GRADIENTS = 1 << 26  # elements of per-sample gradients that exist at a time


def score(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    images: Tensor,
    labels: Tensor,
    losses: Losses,
    note: Callable[[str], None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, squared gradient norms and ⟨θ, ∇ℓ_i⟩, each float64 [N] on the CPU."""
    parts = [
        (found, *_sums(some, parameters, len(found)))
        for found, some in gradients(model, parameters, images, labels, losses, note)
    ]
    return _joined(parts)


def gradients(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    images: Tensor,
    labels: Tensor,
    losses: Losses,
    note: Callable[[str], None],
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Losses [n] on the CPU and ∇_θ ℓ_i, [n, …] by name, of some samples after the other."""
    size = max(1, GRADIENTS // max(sum(p.numel() for p in parameters.values()), 1))
    for x, y in zip(torch.split(images, size), torch.split(labels, size), strict=True):
        try:
            found = _batched(model, parameters, x, y, losses)
        except RuntimeError as error:
            note(f"one sample at a time: torch.func refused ({str(error).splitlines()[0][:160]})")
            yield from alone(model, parameters, x, y, losses)
            continue
        with torch.no_grad():
            yield losses(model(x), y).cpu(), found


def one_by_one(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], images: Tensor, labels: Tensor, losses: Losses
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by plain autograd on batches of one: slow, and true of any network."""
    found = alone(model, parameters, images, labels, losses)
    return _joined([(loss, *_sums(gradient, parameters, 1)) for loss, gradient in found])


def alone(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], images: Tensor, labels: Tensor, losses: Losses
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Loss [1] and gradients [1, …] of one sample after the other."""
    for image, label in zip(torch.split(images, 1), torch.split(labels, 1), strict=True):
        with torch.enable_grad():
            loss = losses(model(image), label)
            found = torch.autograd.grad(loss.sum(), list(parameters.values()), allow_unused=True)
        named = zip(parameters, found, strict=True)
        yield loss.detach().cpu(), {name: one.unsqueeze(0) for name, one in named if one is not None}


def _sums(
    found: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], count: int
) -> tuple[Tensor, Tensor]:
    """‖∇ℓ_i‖² and ⟨θ, ∇ℓ_i⟩ of gradients [N, …] by name."""
    squares, inner = torch.zeros(2, count, dtype=torch.float64)
    for name, gradient in found.items():
        flat = by_sample(gradient)
        squares += flat.square().sum(1).cpu()
        inner += (flat @ parameters[name].detach().flatten()).cpu()
    return squares, inner


def _joined(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    first, second, third = (torch.cat(values) for values in zip(*parts, strict=True))
    return first, second, third


def _batched(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], images: Tensor, labels: Tensor, losses: Losses
) -> dict[str, Tensor]:
    """∇_θ ℓ_i, [N, …] by name."""
    theta = {name: p.detach() for name, p in parameters.items()}

    def loss(theta: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits: Tensor = torch.func.functional_call(model, theta, (image.unsqueeze(0),))
        return losses(logits, label.unsqueeze(0)).sum()

    every = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop", category=UserWarning)
        found: dict[str, Tensor] = every(theta, images, labels)
    return found
