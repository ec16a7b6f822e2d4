"""Data sets in one `.npz` file: images, labels, and optionally sample_ids and split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modeconn_cli.engine.datasets.source import Source, checked
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results.arrays import read_npz


def read(path: Path) -> Source:
    """`images` [N, C, H, W] or [N, H, W, C], `labels` [N]; `split` [N] of train/test, else all train."""
    arrays = _arrays(path)
    images, labels = _channels_first(arrays["images"], path), arrays["labels"]
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"'{path}': labels are {labels.dtype}, expected whole numbers")
    count = len(labels)
    ids = arrays.get("sample_ids", np.arange(count))
    split = arrays.get("split", np.full(count, "train"))
    unknown = set(np.unique(split)) - {"train", "test"}
    if unknown:
        raise InputError(f"'{path}': split holds '{min(unknown)}', expected train and test")
    if len(split) != count or len(images) != count or len(ids) != count:
        raise InputError(f"'{path}': images, labels, sample_ids and split differ in length")
    classes = int(labels.max()) + 1 if count else 1
    train, test = split == "train", split == "test"
    return Source(
        name=path.stem,
        num_classes=classes,
        train=checked(str(path), images[train], labels[train], ids[train], classes),
        test=checked(str(path), images[test], labels[test], ids[test], classes),
        transform="none",
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise InputError(f"'{path}' does not exist", "pass --data-path or the whole path")
    arrays = read_npz(path)
    for name in ("images", "labels"):
        if name not in arrays:
            raise InputError(f"'{path}' has no array '{name}'", f"found: {', '.join(arrays) or 'none'}")
    return arrays


def _channels_first(images: np.ndarray, path: Path) -> np.ndarray:
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise InputError(f"'{path}': images have shape {images.shape}, expected [N, C, H, W] or [N, H, W, C]")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"'{path}': images are {images.dtype}, expected uint8 or floats")
    last_is_channels = images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4)
    return np.moveaxis(images, 3, 1) if last_is_channels else images
