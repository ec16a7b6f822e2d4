"""What a data set's loader returns, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from modeconn_cli.engine.datasets.samples import Samples
from modeconn_cli.engine.datasets.transforms import TRANSFORMS
from modeconn_cli.engine.errors import InputError

AS_THEY_ARE = TRANSFORMS["none"]


@dataclass(frozen=True)
class Source:
    """A data set as its files hold it; `transform` names the one that is used where none is asked for."""

    name: str
    num_classes: int
    train: Samples
    test: Samples
    transform: str

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]


def checked(name: str, images: np.ndarray, labels: np.ndarray, ids: np.ndarray, num_classes: int) -> Samples:
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
    return Samples(
        torch.from_numpy(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)),
        torch.from_numpy(labels[order].astype(np.int64)),
        torch.from_numpy(ids[order].astype(np.int64)),
        AS_THEY_ARE,
    )


def root_of(name: str, folder: Path | None) -> Path:
    """Where the files of a named data set are: in `folder` (`data` without one), or in the folder of its name there."""
    root = folder or Path("data")
    inside = root / name
    return inside if inside.is_dir() else root
