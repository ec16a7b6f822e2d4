"""ResNets (He et al. 2016) with a 3 x 3 stem and without the first pooling, for 32 x 32 images.

Key names are torchvision's; those of the CSL repository's network are `shortcut` and `linear`. The incremental variant
has biases in every convolution (Dohare et al. 2024).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

Keys = Literal["torchvision", "csl"]  # whose names the shortcuts and the head have


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm and a shortcut."""

    def __init__(self, channels: int, planes: int, stride: int, bias: bool, keys: Keys) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(planes)
        self._shortcut = "downsample" if keys == "torchvision" else "shortcut"
        layers = [nn.Conv2d(channels, planes, 1, stride, bias=bias), nn.BatchNorm2d(planes)]
        self.add_module(self._shortcut, nn.Sequential(*(layers if stride != 1 or channels != planes else [])))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.get_submodule(self._shortcut)(x))


class ResNet(nn.Module):
    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        counts: tuple[int, ...],
        width: int,
        bias: bool,
        keys: Keys = "torchvision",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape[0], width, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for i, count in enumerate(counts):
            planes = width * 2**i
            blocks = [Block(channels, planes, 1 if i == 0 else 2, bias, keys)]
            blocks += [Block(planes, planes, 1, bias, keys) for _ in range(count - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            channels = planes
        self._head = "fc" if keys == "torchvision" else "linear"
        self.add_module(self._head, nn.Linear(channels, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for i in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{i}")(x)
        output: Tensor = self.get_submodule(self._head)(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return output


def resnet18(input_shape: tuple[int, ...], num_classes: int, width: int = 64) -> ResNet:
    """11,173,962 parameters for 3 channels, 10 classes and width 64."""
    return ResNet(input_shape, num_classes, (2, 2, 2, 2), width, bias=False)


def resnet34(input_shape: tuple[int, ...], num_classes: int, width: int = 64) -> ResNet:
    return ResNet(input_shape, num_classes, (3, 4, 6, 3), width, bias=False)


def csl_resnet18(input_shape: tuple[int, ...], num_classes: int, width: int = 64) -> ResNet:
    """The same under the key names of the CSL repository (Ravikumar et al. 2025)."""
    return ResNet(input_shape, num_classes, (2, 2, 2, 2), width, bias=False, keys="csl")


def incremental_resnet18(input_shape: tuple[int, ...], num_classes: int, width: int = 64) -> ResNet:
    """Convolutions with biases; all biases begin at 0, weights by fan-in (Dohare et al. 2024)."""
    network = ResNet(input_shape, num_classes, (2, 2, 2, 2), width, bias=True)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(
                module.weight, nonlinearity="relu" if isinstance(module, nn.Conv2d) else "linear"
            )
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return network
