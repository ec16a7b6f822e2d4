"""Augmented batches of CIFAR-shaped images, against torchvision's transforms on PIL images."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from bench.pairs import Pair
from modeconn_cli.engine.datasets.samples import Samples
from modeconn_cli.engine.datasets.transforms import IMAGENET, TRANSFORMS

COUNT, BATCH = 5000, 128


def prepare(folder: Path) -> Pair:  # noqa: ARG001 - every case is prepared alike
    """Normalise, crop with padding 4 and flip, in shuffled batches, on one thread."""
    from torchvision import transforms

    images = torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8)
    labels = torch.zeros(COUNT, dtype=torch.int64)
    samples = Samples(images, labels, torch.arange(COUNT), TRANSFORMS["vgg"])
    pictures = [Image.fromarray(pixels) for pixels in images.permute(0, 2, 3, 1).numpy()]
    pipeline = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(32, padding=4),
            transforms.ToTensor(),
            transforms.Normalize(*IMAGENET),
        ]
    )
    order = torch.randperm(COUNT)

    def ours() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for _ in samples.batches(BATCH, order=order, augment=(0, 0)):
            pass
        torch.set_num_threads(threads)

    def plain() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        rows = order.tolist()
        for begin in range(0, COUNT, BATCH):
            torch.stack([pipeline(pictures[row]) for row in rows[begin : begin + BATCH]])
        torch.set_num_threads(threads)

    return Pair(ours, plain, (f"{COUNT:,} images in batches of {BATCH}, one thread",))
