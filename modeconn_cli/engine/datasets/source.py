"""What a data set's loader returns, checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.datasets.images import ImageFiles
from modeconn_cli.engine.errors import InputError


@dataclass(frozen=True)
class RawSplit:
    """The training or the test samples of a source.

    `images` uint8 or float32 [N, C, H, W], `labels` int64 [N], `ids` int64 [N], ascending and unique.
    """

    images: Tensor | ImageFiles
    labels: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Source:
    """A data set as its files hold it; `transform` names the one that is used where none is asked for."""

    name: str
    num_classes: int
    train: RawSplit
    test: RawSplit
    transform: str

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]


def checked(name: str, images: np.ndarray, labels: np.ndarray, ids: np.ndarray, num_classes: int) -> RawSplit:
    """The samples in id order. Raises InputError for lengths, ids, labels or pixels that cannot be."""
    if not len(images) == len(labels) == len(ids):
        raise InputError(f"{name}: {len(images)} images, {len(labels)} labels and {len(ids)} ids")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        raise InputError(f"{name}: sample id {unique[counts > 1][0]} occurs more than once")
    if len(ids) and ids.min() < 0:
        raise InputError(f"{name}: sample id {ids.min()} is negative")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise InputError(f"{name}: label {labels.min()} or {labels.max()} is outside 0 … {num_classes - 1}")
    if images.dtype != np.uint8 and not np.isfinite(images).all():
        raise InputError(f"{name}: images hold NaN or infinity")
    order = np.argsort(ids, kind="stable")
    pixels = np.ascontiguousarray(images[order])
    return RawSplit(
        torch.from_numpy(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)),
        torch.from_numpy(labels[order].astype(np.int64)),
        torch.from_numpy(ids[order].astype(np.int64)),
    )
