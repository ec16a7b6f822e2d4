"""Curvature of every sample's own loss around its input, along random directions.

With s ∈ {±1}ᵈ keyed by (seed, sample id, draw), v = h·s and g = ∇_x ℓ_i(x + v) − ∇_x ℓ_i(x):
curvature = mean ‖g‖ and directional eigenvalue = mean v·g, in these raw units as documented (Garg et al. 2024,
arXiv:2307.05831); ‖g‖/h estimates ‖Hs‖ and v·g/h² estimates sᵀHs, whose mean over directions is Tr H. With `hvp` g
is the exact product h·Hs instead; in ReLU networks the two differ, as the difference sees the kinks in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeconn_cli.engine import keyed
from modeconn_cli.engine.per_sample.gradients import Frozen

Method = Literal["fd", "hvp"]

ROUNDING = 8.0  # float32 units of the two gradients below which their difference says nothing


@dataclass(frozen=True)
class Curvature:
    """Of N samples, float64 [N] each; `rounded`: the difference was within rounding along some direction."""

    curvature: Tensor
    directional_eig: Tensor
    hvp_norm: Tensor
    trace: Tensor
    trace_stderr: Tensor  # over directions; NaN with one
    rounded: Tensor


def directions(seed: int, ids: Tensor, draw: int, shape: torch.Size) -> Tensor:
    """s ∈ {±1} for ids [N], float32 [N, *shape[1:]]; the same for any batch."""
    entries = shape[1:].numel()
    words = keyed.bits(seed, "curvature", ids, draw, -(-entries // 64))
    signs = (words.unsqueeze(2) >> torch.arange(64, device=ids.device)) & 1
    return (2 * signs.flatten(1)[:, :entries] - 1).to(torch.float32).view(shape)


def measure(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    *,
    h: float,
    draws: int,
    temperature: float,
    seed: int,
    method: Method = "fd",
) -> Curvature:
    """Score N samples: images [N, …], labels and ids int64 [N]. The model is in eval mode and is left as it was.

    Costs draws + 1 passes of forward and input gradient (fd), or one and a double backward per draw (hvp).
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    count = len(images)
    sums = torch.zeros(5, count, dtype=torch.float64, device=images.device)
    with Frozen(parameters), torch.enable_grad():
        exact = images.detach().requires_grad_()
        first = _gradient(model, exact, labels, temperature, create_graph=method == "hvp")
        base = first.detach().flatten(1)
        for draw in range(draws):
            s = directions(seed, ids, draw, images.shape)
            if method == "fd":
                moved = (images + h * s).detach().requires_grad_()
                g = (_gradient(model, moved, labels, temperature).flatten(1) - base).double()
                noise = ROUNDING * torch.finfo(images.dtype).eps * base.double().norm(dim=1)
                rounded = g.norm(dim=1) <= noise
            else:
                (product,) = torch.autograd.grad(first, exact, s, retain_graph=draw + 1 < draws)
                g = h * product.detach().flatten(1).double()
                rounded = torch.zeros(count, dtype=torch.bool, device=images.device)
            norm, along = g.norm(dim=1), h * (g * s.flatten(1)).sum(1)
            t = along / h**2
            sums += torch.stack([norm, along, t, t * t, rounded.double()])
    norm, along, t, squares, rounded = sums / draws
    spread = (squares - t * t).clamp_min(0) / (draws - 1) if draws > 1 else torch.full_like(t, torch.nan)
    return Curvature(norm, along, norm / h, t, spread.sqrt(), rounded > 0)


def _gradient(
    model: nn.Module, images: Tensor, labels: Tensor, temperature: float, *, create_graph: bool = False
) -> Tensor:
    """∇_x ℓ_i of every sample's own loss, [N, …]."""
    losses = F.cross_entropy(model(images) / temperature, labels, reduction="sum")
    (found,) = torch.autograd.grad(losses, images, create_graph=create_graph)
    return found
