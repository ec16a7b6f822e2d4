"""A small convolutional network for small images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeconn_cli.engine.errors import SettingsError


class CNN(nn.Module):
    """Three 3 x 3 convolutions with a pooling step between them, one hidden linear layer."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, width: int, norm: str) -> None:
        super().__init__()
        channels, height, side = input_shape
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        batch = norm == "batch"
        self.norm1 = nn.BatchNorm2d(width) if batch else nn.Identity()
        self.norm2 = nn.BatchNorm2d(2 * width) if batch else nn.Identity()
        self.norm3 = nn.BatchNorm2d(2 * width) if batch else nn.Identity()
        self.fc1 = nn.Linear(2 * width * (height // 4) * (side // 4), 4 * width)
        self.output = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        x = F.max_pool2d(F.relu(self.norm3(self.conv3(x))), 2)
        output: Tensor = self.output(F.relu(self.fc1(torch.flatten(x, 1))))
        return output


def cnn(input_shape: tuple[int, ...], num_classes: int, width: int = 16, norm: str = "none") -> CNN:
    """`width` is the number of channels of the first convolution; `norm` is none or batch."""
    if norm not in ("none", "batch"):
        raise SettingsError(f"--model-arg: norm is none or batch, got {norm!r}")
    return CNN(input_shape, num_classes, width, norm)
