"""LeNet-5 (LeCun et al. 1998) with ReLU: of the linear mode connectivity study, and with max pooling."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from modeconn_cli.engine.errors import SettingsError


class LeNet5(nn.Module):
    """28 x 28 images are padded by two pixels; 32 x 32 images are used as they are."""

    def __init__(
        self, input_shape: tuple[int, ...], num_classes: int, pool: Callable[[Tensor, int], Tensor]
    ) -> None:
        super().__init__()
        channels, height, side = input_shape
        pad = 2 if height < 32 else 0
        rest = [((n + 2 * pad - 4) // 2 - 4) // 2 for n in (height, side)]
        if min(rest) < 1:
            raise SettingsError(f"lenet5 cannot take images of {tuple(input_shape)}", "pass --image-size 28")
        self.pool = pool
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=pad)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * rest[0] * rest[1], 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)), 2)
        x = self.pool(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc2(F.relu(self.fc1(x.flatten(1)))))
        output: Tensor = self.fc3(x)
        return output


def lenet5(input_shape: tuple[int, ...], num_classes: int) -> LeNet5:
    """61,706 parameters for 28 x 28 grey images and 10 classes; average pooling, as LeCun and the study have it."""
    return LeNet5(input_shape, num_classes, F.avg_pool2d)


def lenet5_max(input_shape: tuple[int, ...], num_classes: int) -> LeNet5:
    """The same tensors with max pooling, as many trainers have it."""
    return LeNet5(input_shape, num_classes, F.max_pool2d)
