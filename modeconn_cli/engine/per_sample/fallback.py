"""Gradient norms of every sample by torch.func, in chunks; one sample at a time where that refuses too."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from modeconn_cli.engine.per_sample.rules import by_sample

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
    size = max(1, GRADIENTS // max(sum(p.numel() for p in parameters.values()), 1))
    parts = []
    for x, y in zip(torch.split(images, size), torch.split(labels, size), strict=True):
        try:
            gradients = _batched(model, parameters, x, y, losses)
        except RuntimeError as error:
            note(f"one sample at a time: torch.func refused ({str(error).splitlines()[0][:160]})")
            return one_by_one(model, parameters, images, labels, losses)
        with torch.no_grad():
            found = losses(model(x), y)
        parts.append((found.cpu(), *_sums(gradients, parameters, len(x))))
    return _joined(parts)


def one_by_one(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], images: Tensor, labels: Tensor, losses: Losses
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by plain autograd on batches of one: slow, and true of any network."""
    parts = []
    for image, label in zip(torch.split(images, 1), torch.split(labels, 1), strict=True):
        with torch.enable_grad():
            loss = losses(model(image), label)
            found = torch.autograd.grad(loss.sum(), list(parameters.values()), allow_unused=True)
        named = zip(parameters, found, strict=True)
        gradients = {name: gradient.unsqueeze(0) for name, gradient in named if gradient is not None}
        parts.append((loss.detach().cpu(), *_sums(gradients, parameters, 1)))
    return _joined(parts)


def _sums(
    gradients: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], count: int
) -> tuple[Tensor, Tensor]:
    """‖∇ℓ_i‖² and ⟨θ, ∇ℓ_i⟩ of gradients [N, …] by name."""
    squares, inner = torch.zeros(2, count, dtype=torch.float64)
    for name, gradient in gradients.items():
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
        gradients: dict[str, Tensor] = every(theta, images, labels)
    return gradients
