"""Multilayer perceptron."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from modeconn_cli.engine.errors import SettingsError

DEEPEST = 1000


def mlp(input_shape: tuple[int, ...], num_classes: int, width: int = 64, depth: int = 2) -> nn.Sequential:
    """`depth` hidden layers of `width` ReLU units: fc1, fc2, …, and the output layer."""
    if not 0 <= depth <= DEEPEST:
        raise SettingsError(
            f"--model-arg depth={depth}: a network of this kind has 0 to {DEEPEST} hidden layers"
        )
    sizes = [math.prod(input_shape), *[width] * depth]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i in range(depth):
        layers[f"fc{i + 1}"] = nn.Linear(sizes[i], sizes[i + 1])
        layers[f"relu{i + 1}"] = nn.ReLU()
    layers["output"] = nn.Linear(sizes[-1], num_classes)
    return nn.Sequential(layers)
