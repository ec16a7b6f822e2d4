"""A user's own data: `pkg.mod:factory(split, **args)` returning a map-style data set of (x, y) or (x, y, id)."""

from __future__ import annotations

from typing import Any

import numpy as np

from modeconn_cli.engine.datasets.samples import Samples
from modeconn_cli.engine.datasets.source import Source, checked
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.factories import call, imported


def read(path: str, args: dict[str, Any]) -> Source:
    """Both splits, drawn once into memory; the number of classes is that of the largest label."""
    factory = imported(path)
    splits = {
        name: _arrays(call(factory, args, "--data-arg", split=name), f"{path} ({name})")
        for name in ("train", "test")
    }
    classes = 1 + max(int(labels.max()) for _, labels, _ in splits.values() if len(labels))

    def one(name: str) -> Samples:
        images, labels, ids = splits[name]
        return checked(f"{path} ({name})", images, labels, ids, classes)

    return Source(path, classes, one("train"), one("test"), transform="none")


def _arrays(samples: Any, where: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [samples[i] for i in range(len(samples))]
    if not rows:
        empty = np.zeros(0, dtype=np.int64)
        return np.zeros((0, 1, 1, 1), np.float32), empty, empty
    if len(rows[0]) not in (2, 3):
        raise InputError(
            f"{where}: samples have {len(rows[0])} entries, expected (x, y) or (x, y, sample_id)"
        )
    images = np.stack([_pixels(row[0]) for row in rows])
    labels = np.array([_label(row[1]) for row in rows], dtype=np.int64)
    ids = np.array([int(row[2]) if len(row) == 3 else i for i, row in enumerate(rows)], dtype=np.int64)
    return images, labels, ids


def _pixels(x: Any) -> np.ndarray:
    """[C, H, W] of a tensor, an array or a PIL image (whose channels come last)."""
    array = np.asarray(x)
    if hasattr(x, "getbands"):
        return array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    return array if array.ndim == 3 else array.reshape((1, *array.shape)) if array.ndim == 2 else array


def _label(y: Any) -> int:
    """A whole number, or the place of the one in a one-hot label."""
    array = np.asarray(y)
    return int(array.argmax()) if array.size > 1 else int(array.reshape(-1)[0])
