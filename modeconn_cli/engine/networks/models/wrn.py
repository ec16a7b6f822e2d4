"""Wide residual networks for 32 x 32 images (Zagoruyko and Komodakis 2016), with Garipov's key names."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from modeconn_cli.engine.errors import SettingsError


class Wide(nn.Module):
    """Two 3 x 3 convolutions with biases, each after batch norm and ReLU; the second one strides."""

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, planes, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != planes:
            self.shortcut.append(nn.Conv2d(channels, planes, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        total: Tensor = out + self.shortcut(x)
        return total


class WideResNet(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int, depth: int, width: int) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or width < 1:
            raise SettingsError(f"there is no wrn{depth}-{width}", "depths are 10, 16, 22, 28, … (6n + 4)")
        count = (depth - 4) // 6
        sizes = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(input_shape[0], 16, 3, padding=1)
        for i, (before, after) in enumerate(itertools.pairwise(sizes), start=1):
            first = Wide(before, after, 1 if i == 1 else 2)
            self.add_module(
                f"layer{i}", nn.Sequential(first, *(Wide(after, after, 1) for _ in range(count - 1)))
            )
        self.bn1 = nn.BatchNorm2d(sizes[-1], momentum=0.9)
        self.linear = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for i in (1, 2, 3):
            x = self.get_submodule(f"layer{i}")(x)
        x = F.adaptive_avg_pool2d(F.relu(self.bn1(x)), 1)
        output: Tensor = self.linear(x.flatten(1))
        return output


def wrn(input_shape: tuple[int, ...], num_classes: int, depth: int = 28, width: int = 10) -> WideResNet:
    """`wrn<depth>-<width>`."""
    return WideResNet(input_shape, num_classes, depth, width)
