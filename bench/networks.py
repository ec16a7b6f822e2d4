"""The VGG16 that most cases measure: 15,245,130 parameters, made up."""

from __future__ import annotations

import torch
from torch import Tensor

from modeconn_cli.engine.networks.models.vgg import VGG, vgg

SHAPE, CLASSES = (3, 32, 32), 10


def network(seed: int = 0) -> VGG:
    torch.manual_seed(seed)
    return vgg(SHAPE, CLASSES, depth=16, norm=False)


def control_points() -> list[dict[str, Tensor]]:
    """Two networks and the point halfway between them."""
    first, last = ({n: p.detach() for n, p in network(seed).named_parameters()} for seed in (0, 1))
    return [first, {name: (first[name] + last[name]) / 2 for name in first}, last]


def images(count: int) -> tuple[Tensor, Tensor]:
    """float32 images [count, 3, 32, 32] and labels [count]."""
    torch.manual_seed(2)
    return torch.randn(count, *SHAPE), torch.randint(0, CLASSES, (count,))
