"""Multilayer perceptron."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn


def mlp(input_shape: tuple[int, ...], num_classes: int, width: int = 64, depth: int = 2) -> nn.Sequential:
    """`depth` hidden layers of `width` ReLU units: fc1, fc2, …, and the output layer."""
    sizes = [math.prod(input_shape), *[width] * depth]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i in range(depth):
        layers[f"fc{i + 1}"] = nn.Linear(sizes[i], sizes[i + 1])
        layers[f"relu{i + 1}"] = nn.ReLU()
    layers["output"] = nn.Linear(sizes[-1], num_classes)
    return nn.Sequential(layers)
