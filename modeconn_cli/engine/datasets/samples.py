"""Samples: images on the device or in files, labels, ids, and the batches made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from modeconn_cli.engine.datasets.images import WHITE, ImageFiles
from modeconn_cli.engine.datasets.transforms import Transform

HASHED = 1 << 22  # bytes that are hashed at a time


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
    """One split: `images` uint8 or float32 [N, C, H, W], `labels` int64 [N], `ids` int64 [N], ascending.

    Small data is one tensor on the device; image files are read batch by batch.
    """

    images: Tensor | ImageFiles
    labels: Tensor
    ids: Tensor
    transform: Transform

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def to(self, device: torch.device) -> Samples:
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return replace(self, images=images, labels=self.labels.to(device), ids=self.ids.to(device))

    @cached_property
    def fingerprint(self) -> str:
        """What tells these samples from others but their labels: a hash of ids and images; of image files by their
        places in the folder and their sizes.
        """
        found = hashlib.sha256(repr(self.transform).encode())
        for tensor in (self.ids, *([self.images] if isinstance(self.images, Tensor) else [])):
            for rows in torch.split(tensor, max(1, HASHED * len(tensor) // max(tensor.nbytes, 1))):
                found.update(rows.cpu().contiguous().numpy().tobytes())
        if not isinstance(self.images, Tensor):
            found.update("\0".join(self.images.listing()).encode("utf-8", "surrogateescape"))
        return found.hexdigest()

    @cached_property
    def labelling(self) -> str:
        """What tells the labels from others."""
        return hashlib.sha256(self.labels.cpu().contiguous().numpy().tobytes()).hexdigest()

    def take(self, rows: Tensor) -> Samples:
        images = self.images[rows] if isinstance(self.images, Tensor) else self.images.take(rows)
        return replace(self, images=images, labels=self.labels[rows], ids=self.ids[rows])

    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        augment: tuple[int, int] | None = None,
        first: int = 0,
    ) -> Iterator[Batch]:
        """Batches in id order or of the rows `order` [n], from batch number `first` on.

        `augment` is (seed, epoch): the random crops and flips depend on them and on the sample id alone. In a
        shuffled pass the last batch is never a single sample, which batch norm could not use.
        """
        count = len(self) if order is None else len(order)
        parts = spans(count, batch_size, merge_single=order is not None)[first:]
        every = order.to(self.device) if order is not None else None
        rows = [slice(begin, end) if every is None else every[begin:end] for begin, end in parts]
        yield from self.read(rows, augment=augment)

    def read(
        self, rows: Sequence[slice | Tensor], *, augment: tuple[int, int] | None = None
    ) -> Iterator[Batch]:
        """One batch for each of the row numbers given."""
        white = None if isinstance(self.images, Tensor) else WHITE
        for these, images in zip(rows, self._pixels(rows, augment), strict=True):
            ids = self.ids[these]
            if augment is not None:
                images = self.transform.augment(images, ids, *augment, white)
            yield Batch(self.transform.normalise(images, white), self.labels[these], ids)

    def _pixels(self, rows: Sequence[slice | Tensor], augment: tuple[int, int] | None) -> Iterator[Tensor]:
        """The images of each batch."""
        if isinstance(self.images, Tensor):
            yield from (self.images[these] for these in rows)
            return
        numbers = torch.arange(len(self))
        wanted = [numbers[these if isinstance(these, slice) else these.cpu()] for these in rows]
        for images in self.images.read(wanted, self.ids.cpu(), self.transform, augment):
            yield images.to(self.device, non_blocking=True)


def spans(count: int, size: int, *, merge_single: bool = False) -> list[tuple[int, int]]:
    """The begin and end of each batch; a last batch of one sample joins the batch before it on request."""
    out = [(begin, min(begin + size, count)) for begin in range(0, count, size)]
    if merge_single and size > 1 and len(out) > 1 and out[-1][1] - out[-1][0] == 1:
        out[-2:] = [(out[-2][0], count)]
    return out
