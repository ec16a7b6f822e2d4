"""VGG for 32 x 32 images with the key names of Garipov et al. 2018 (dnn-mode-connectivity)."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn
from torch.nn import functional as F

from modeconn_cli.engine.errors import SettingsError

# Convolutions per block, by depth; the channels of the blocks are 1, 2, 4, 8 and 8 times the width.
BLOCKS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
FACTORS = (1, 2, 4, 8, 8)

Shape = tuple[int, ...]


class VGG(nn.Module):
    """Five blocks of 3 x 3 convolutions, each ended by pooling; two hidden linear layers with dropout.

    With batch norm, a block's layers alternate: convolution, norm, convolution, norm, …
    """

    def __init__(
        self, input_shape: Shape, num_classes: int, blocks: tuple[int, ...], width: int, norm: bool
    ) -> None:
        super().__init__()
        channels, height, side = input_shape
        if height < 32 or side < 32:
            raise SettingsError(
                f"a VGG halves its images five times and cannot take {height} x {side}",
                "pass --image-size 32",
            )
        second = 2 if norm else 1
        # The documented layers of --layer-depth: the first convolution of block 0, the second of blocks 2, 4.
        self.depths = {
            "early": "layer_blocks.0.0",
            "mid": f"layer_blocks.2.{second}",
            "late": f"layer_blocks.4.{second}",
        }
        self.layer_blocks = nn.ModuleList()
        for count, factor in zip(blocks, FACTORS, strict=True):
            sizes = [channels, *[factor * width] * count]
            block = nn.ModuleList()
            for before, after in itertools.pairwise(sizes):
                block.append(nn.Conv2d(before, after, 3, padding=1))
                if norm:
                    block.append(nn.BatchNorm2d(after))
            self.layer_blocks.append(block)
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
            x = F.max_pool2d(self._block(list(block), x), 2)  # type: ignore[call-overload]
        output: Tensor = self.classifier(x.flatten(1))
        return output

    def _block(self, layers: list[nn.Module], x: Tensor) -> Tensor:
        """Every convolution with its norm, if there is one, and a ReLU."""
        for layer, following in itertools.pairwise([*layers, None]):
            assert layer is not None
            x = layer(x)
            if not isinstance(following, nn.BatchNorm2d):
                x = F.relu(x)
        return x


class GaripovVGG(VGG):
    """The batch norm VGG as dnn-mode-connectivity runs it: the second half of each block is never executed.

    Its forward pairs the layers of a block with one activation per convolution, so that a block of n
    convolutions and n norms ends after n layers, each followed by a ReLU (its issue 2). Checkpoints trained
    with that code need this forward.
    """

    def _block(self, layers: list[nn.Module], x: Tensor) -> Tensor:
        for layer in layers[: len(layers) // 2]:
            x = F.relu(layer(x))
        return x


def vgg(input_shape: Shape, num_classes: int, depth: int, norm: bool, width: int = 64) -> VGG:
    """15,245,130 parameters at depth 16 for 3 x 32 x 32 images, 10 classes and width 64."""
    return VGG(input_shape, num_classes, BLOCKS[depth], width, norm)


def garipov_vgg(input_shape: Shape, num_classes: int, depth: int, width: int = 64) -> VGG:
    """As many parameters as `vgg` with norms, and another function."""
    return GaripovVGG(input_shape, num_classes, BLOCKS[depth], width, norm=True)
