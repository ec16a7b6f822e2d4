"""The small network of the linear mode connectivity study on CIFAR-10: two convolutions, three linear layers."""

from __future__ import annotations

from torch import Tensor, nn


class SimpleCifar10CNN(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        channels, height, side = input_shape
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(64 * (height // 4) * (side // 4), 256),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(128, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.classifier(self.features(x).flatten(1))
        return output


def simple_cifar10_cnn(input_shape: tuple[int, ...], num_classes: int) -> SimpleCifar10CNN:
    """1,102,410 parameters for 3 x 32 x 32 images and 10 classes."""
    return SimpleCifar10CNN(input_shape, num_classes)
