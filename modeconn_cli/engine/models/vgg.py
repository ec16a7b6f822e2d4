"""VGG for 32 x 32 images with the key names of Garipov et al. 2018 (dnn-mode-connectivity)."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from modeconn_cli.engine.errors import SettingsError

# Convolutions per block; the channels of the blocks are 1, 2, 4, 8 and 8 times the width.
VGG16 = (2, 2, 3, 3, 3)
FACTORS = (1, 2, 4, 8, 8)


class VGG(nn.Module):
    """Five blocks of 3 x 3 convolutions, each ended by pooling; two hidden linear layers with dropout."""

    # The documented layers of --layer-depth.
    depths: ClassVar[dict[str, str]] = {
        "early": "layer_blocks.0.0",
        "mid": "layer_blocks.2.1",
        "late": "layer_blocks.4.1",
    }

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, blocks: tuple[int, ...], width: int
    ) -> None:
        super().__init__()
        channels, height, side = input_shape
        if height < 32 or side < 32:
            raise SettingsError(
                f"a VGG halves its images five times and cannot take {height} x {side}",
                "pass --image-size 32",
            )
        self.layer_blocks = nn.ModuleList()
        for count, factor in zip(blocks, FACTORS, strict=True):
            sizes = [channels, *[factor * width] * count]
            self.layer_blocks.append(
                nn.ModuleList(nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1) for i in range(count))
            )
            channels = sizes[-1]
        hidden = 8 * width
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(channels * (height // 32) * (side // 32), hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layer_blocks:
            for layer in block:  # type: ignore[attr-defined]
                x = F.relu(layer(x))
            x = F.max_pool2d(x, 2)
        output: Tensor = self.classifier(x.flatten(1))
        return output


def vgg16(input_shape: tuple[int, ...], num_classes: int, width: int = 64) -> VGG:
    """15,245,130 parameters for 3 x 32 x 32 images, 10 classes and width 64."""
    return VGG(input_shape, num_classes, VGG16, width)
