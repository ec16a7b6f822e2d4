"""Gradient norms of every sample by torch.func, in chunks; one sample at a time where that refuses too."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

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
            if size > 1:
                note(f"one sample at a time: torch.func refused ({str(error).splitlines()[0]})")
                size = 1
            alone = [
                _single(model, parameters, a, b, losses)
                for a, b in zip(torch.split(x, 1), torch.split(y, 1), strict=True)
            ]
            gradients = {name: torch.stack([each[name] for each in alone]) for name in parameters}
        with torch.no_grad():
            found = losses(model(x), y)
        squares, inner = torch.zeros_like(found), torch.zeros_like(found)
        for name, gradient in gradients.items():
            flat = gradient.flatten(1)
            squares += flat.square().sum(1)
            inner += flat @ parameters[name].detach().flatten()
        parts.append((found.cpu(), squares.cpu(), inner.cpu()))
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


def _single(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], image: Tensor, label: Tensor, losses: Losses
) -> dict[str, Tensor]:
    with torch.enable_grad():
        loss = losses(model(image), label).sum()
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if gradient is None else gradient
        for (name, p), gradient in zip(parameters.items(), found, strict=True)
    }
