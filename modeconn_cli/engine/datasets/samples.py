"""Samples on the device: images, labels, ids, and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modeconn_cli.engine.datasets.transforms import Transform


@dataclass(frozen=True)
class Batch:
    """`images` float32 [B, C, H, W], normalised; `labels` int64 [B]; `ids` int64 [B]."""

    images: Tensor
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Samples:
    """One split: `images` uint8 or float32 [N, C, H, W], `labels` int64 [N], `ids` int64 [N], ascending."""

    images: Tensor
    labels: Tensor
    ids: Tensor
    transform: Transform

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Samples:
        return replace(
            self, images=self.images.to(device), labels=self.labels.to(device), ids=self.ids.to(device)
        )

    def take(self, rows: Tensor) -> Samples:
        return replace(self, images=self.images[rows], labels=self.labels[rows], ids=self.ids[rows])

    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        augment: tuple[int, int] | None = None,
        first: int = 0,
    ) -> Iterator[Batch]:
        """Batches in id order or in `order` (row numbers [N]), from batch number `first` on.

        `augment` is (seed, epoch): the random crops and flips depend on them and on the sample id alone. In a
        shuffled pass the last batch is never a single sample, which batch norm could not use.
        """
        if order is not None:
            order = order.to(self.images.device)
        for begin, end in spans(len(self), batch_size, merge_single=order is not None)[first:]:
            if order is None:
                images, labels, ids = self.images[begin:end], self.labels[begin:end], self.ids[begin:end]
            else:
                rows = order[begin:end]
                images, labels, ids = self.images[rows], self.labels[rows], self.ids[rows]
            if augment is not None:
                images = self.transform.augment(images, ids, *augment)
            yield Batch(self.transform.normalise(images), labels, ids)


def spans(count: int, size: int, *, merge_single: bool = False) -> list[tuple[int, int]]:
    """The begin and end of each batch; a last batch of one sample joins the batch before it on request."""
    out = [(begin, min(begin + size, count)) for begin in range(0, count, size)]
    if merge_single and size > 1 and len(out) > 1 and out[-1][1] - out[-1][0] == 1:
        out[-2:] = [(out[-2][0], count)]
    return out
