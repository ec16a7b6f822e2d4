"""ConvFC of Garipov et al. 2018: three 5 x 5 convolutions and three linear layers, no dropout, no norm."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn


class ConvFC(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        sizes = (input_shape[0], 32, 64, 128)
        parts: list[nn.Module] = []
        rest = [input_shape[1], input_shape[2]]
        for before, after in itertools.pairwise(sizes):
            parts += [nn.Conv2d(before, after, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
            rest = [(n - 3) // 2 + 1 for n in rest]
        self.conv_part = nn.Sequential(*parts)
        self.fc_part = nn.Sequential(
            nn.Linear(128 * rest[0] * rest[1], 1000),
            nn.ReLU(),
            nn.Linear(1000, 1000),
            nn.ReLU(),
            nn.Linear(1000, num_classes),
        )
        for layer in self.conv_part:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, math.sqrt(2 / (25 * layer.out_channels)))
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc_part(self.conv_part(x).flatten(1))
        return output


def convfc(input_shape: tuple[int, ...], num_classes: int) -> ConvFC:
    """2,422,634 parameters for 3 x 32 x 32 images and 10 classes."""
    return ConvFC(input_shape, num_classes)
