"""What a generated network is made of: layers by the name of the instruction that made them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Made = Callable[..., Tensor]  # (network, *values) -> value
Step = tuple[Made, tuple[int, ...]]


class Network(nn.Module):
    """Layers by the name of the instruction that made them."""

    prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self.again: list[tuple[str, Made]] = []  # layers that may be called once more, by their kind

    def add(self, layer: nn.Module, suffix: str = "") -> str:
        setattr(self, name := self.prefix + suffix, layer)
        return name

    def weight(self, *shape: int, suffix: str = "") -> str:
        setattr(self, name := self.prefix + suffix, nn.Parameter(torch.randn(shape)))
        return name

    def layer(self, layer: nn.Module) -> Made:
        """The call of a new layer, which later instructions may repeat."""
        name = self.add(layer)
        self.again.append((name, made := lambda m, x: getattr(m, name)(x)))
        return made
