"""Residual networks with pre-activation for 32 x 32 images (He et al. 2016), with Garipov's key names.

Basic blocks, depth 6n + 2, below depth 44; bottlenecks, depth 9n + 2, from there.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from modeconn_cli.engine.errors import SettingsError


class Basic(nn.Module):
    """Two 3 x 3 convolutions, each after batch norm and ReLU."""

    expansion = 1

    def __init__(self, channels: int, planes: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        return out + (x if self.downsample is None else self.downsample(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, each after batch norm and ReLU."""

    expansion = 4

    def __init__(self, channels: int, planes: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(F.relu(self.bn2(out)))
        out = self.conv3(F.relu(self.bn3(out)))
        return out + (x if self.downsample is None else self.downsample(x))


class PreResNet(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int, depth: int) -> None:
        super().__init__()
        per_block = 9 if depth >= 44 else 6
        if depth < 8 or (depth - 2) % per_block:
            raise SettingsError(
                f"there is no preresnet{depth}", "depths are 8, 14, … 38 (6n + 2) and 47, 56, … (9n + 2)"
            )
        block: type[Basic] | type[Bottleneck] = Bottleneck if depth >= 44 else Basic
        self._channels = 16
        self.conv1 = nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False)
        count = (depth - 2) // per_block
        self.layer1 = self._layer(block, 16, count, 1)
        self.layer2 = self._layer(block, 32, count, 2)
        self.layer3 = self._layer(block, 64, count, 2)
        self.bn = nn.BatchNorm2d(self._channels)
        self.fc = nn.Linear(self._channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))

    def _layer(
        self, block: type[Basic] | type[Bottleneck], planes: int, count: int, stride: int
    ) -> nn.Sequential:
        out = planes * block.expansion
        downsample = None
        if stride != 1 or self._channels != out:
            downsample = nn.Sequential(nn.Conv2d(self._channels, out, 1, stride, bias=False))
        blocks = [block(self._channels, planes, stride, downsample)]
        blocks += [block(out, planes, 1, None) for _ in range(count - 1)]
        self._channels = out
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1)
        output: Tensor = self.fc(x.flatten(1))
        return output


def preresnet(input_shape: tuple[int, ...], num_classes: int, depth: int = 110) -> PreResNet:
    """`preresnet<depth>`."""
    return PreResNet(input_shape, num_classes, depth)
