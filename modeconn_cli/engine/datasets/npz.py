"""Data sets in one `.npz` file: images, labels, and optionally sample_ids and split; or arrays of each split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modeconn_cli.engine.datasets.source import Given, Source, split_in_two
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results.arrays import read_npz

WHOLE = ("images", "labels")
# As Keras and MedMNIST name the arrays of each split; the first of each pair are the images.
PER_SPLIT = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
HELD_OUT = ("test", "val")  # in the order of their standing


def read(path: Path) -> Source:
    """Images [N, C, H, W], [N, H, W, C] or [N, H, W] and labels [N], [N, 1] or one-hot.

    `split` [N] says train or test, without it all are for training; or every split has arrays of its own.
    """
    if not path.exists():
        raise InputError(f"'{path}' does not exist", "pass --data-path or the whole path")
    # As it is read, every array is compared with its checksum.
    return _read(path, read_npz(path))


def _read(path: Path, file: Mapping[str, Any]) -> Source:
    layouts = [pair for pair in PER_SPLIT if any(name.format("train") in file for name in pair)]
    if any(name in file for name in WHOLE):
        layouts.append(WHOLE)
    if len(layouts) > 1:
        raise InputError(f"'{path}' holds data in two layouts", f"found: {', '.join(file)}")
    if not layouts or layouts == [WHOLE]:
        return _by_column(path, file)
    splits = {name: part for name in ("train", *HELD_OUT) if (part := _part(path, file, layouts[0], name))}
    there = [name for name in HELD_OUT if name in splits]
    left_out = f"'{path}': the images of '{there[1]}' are not used" if len(there) > 1 else ""
    return split_in_two(path.stem, splits["train"], splits[there[0]] if there else None, left_out)


def _part(path: Path, file: Mapping[str, Any], pair: tuple[str, ...], split: str) -> Given | None:
    """The arrays of one split, None where it is not there. Raises InputError where one of the two is missing."""
    images, labels = (name.format(split) for name in pair)
    if images not in file and labels not in file:
        return None
    found = [_array(path, file, name) for name in (images, labels)]
    return Given(f"'{path}' ({split})", _channels_first(found[0], path), found[1])


def _by_column(path: Path, file: Mapping[str, Any]) -> Source:
    images, labels = (_array(path, file, name) for name in WHOLE)
    images, count = _channels_first(images, path), len(images)
    ids = _array(path, file, "sample_ids") if "sample_ids" in file else np.arange(count)
    split = _array(path, file, "split") if "split" in file else np.full(count, "train")
    if not len(labels) == len(ids) == len(split) == count:
        raise InputError(f"'{path}': images, labels, sample_ids and split differ in length")
    if split.ndim != 1 or split.dtype.kind != "U":
        shown = f"the shape {split.shape}" if split.ndim != 1 else str(split.dtype)
        raise InputError(f"'{path}': split holds {shown}, expected train and test as text [N]")
    unknown = set(np.unique(split).tolist()) - {"train", "test"}
    if unknown:
        raise InputError(f"'{path}': split holds '{min(unknown)}', expected train and test")
    train, test = (
        Given(f"'{path}' ({name})", images[split == name], labels[split == name], ids[split == name])
        for name in ("train", "test")
    )
    return split_in_two(path.stem, train, test)


def _array(path: Path, file: Mapping[str, Any], name: str) -> np.ndarray:
    if name not in file:
        raise InputError(f"'{path}' has no array '{name}'", f"found: {', '.join(file) or 'none'}")
    array: np.ndarray = file[name]
    if array.ndim == 0:
        raise InputError(f"'{path}': '{name}' is a single value")
    return array


def _channels_first(images: np.ndarray, path: Path) -> np.ndarray:
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise InputError(f"'{path}': images have shape {images.shape}, expected [N, C, H, W] or [N, H, W, C]")
    last_is_channels = images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4)
    return np.moveaxis(images, 3, 1) if last_is_channels else images
