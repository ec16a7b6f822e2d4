"""What a source of data gives, checked before anything of it is cast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine import exact
from modeconn_cli.engine.datasets.images import ImageFiles
from modeconn_cli.engine.datasets.pixels import dark, is_finite, kept_as, pixels
from modeconn_cli.engine.datasets.stored import Stored
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.registry import FOLDERS


@dataclass(frozen=True)
class Split:
    """One split of a source: `images` uint8 or float32 [N, C, H, W], `labels` int64 [N], `ids` int64 [N], ascending.

    Images may be `Stored`, yet to be read.
    """

    images: Tensor | ImageFiles | Stored
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Split:
        """Some rows; those that follow each other in memory are not copied."""
        first, count = int(rows[0]) if len(rows) else 0, len(rows)
        if isinstance(self.images, Tensor) and torch.equal(rows, torch.arange(first, first + count)):
            images: Tensor | ImageFiles | Stored = self.images[first : first + count]
        else:
            images = self.images[rows] if isinstance(self.images, Tensor) else self.images.take(rows)
        return replace(self, images=images, labels=self.labels[rows], ids=self.ids[rows])


@dataclass(frozen=True)
class Source:
    """A data set as its files hold it; `transform` names the one that is used where none is asked for.

    `doubt` says which of the files' samples belong to neither split, and where what is white is not sure; `remark` how
    the images are read. `class_names` are by label, where the files say them; `folder` is the one they lie in.
    """

    name: str
    num_classes: int
    train: Split
    test: Split
    transform: str
    doubt: str = ""
    remark: str = ""
    class_names: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]


@dataclass(frozen=True)
class Given:
    """One split as a source gives it: nothing has been cast. Without `ids` they are its positions."""

    where: str
    images: np.ndarray | Stored
    labels: Any
    ids: Any = None


def split_in_two(name: str, train: Given, test: Given | None, left_out: str = "") -> Source:
    """The source of two splits, or of one; the classes are the columns of one-hot labels, else up to the largest label.

    Raises InputError for what `checked` refuses, and for splits that do not go together.
    """
    parts = [train] if test is None else [train, test]
    labels = [exact.labels(part.labels, part.where) for part in parts]
    columns = {found.classes for found in labels if found.classes is not None}
    if len(columns) > 1:
        raise InputError(f"{name}: one-hot labels have {' and '.join(map(str, sorted(columns)))} columns")
    largest = max((int(found.numbers.max()) for found in labels if len(found.numbers)), default=0)
    classes = columns.pop() if columns else largest + 1
    splits = [
        checked(part.where, part.images, found.numbers, _ids(part), classes)
        for part, found in zip(parts, labels, strict=True)
    ]
    first, last = splits[0], splits[-1] if test is not None else splits[0].take(torch.arange(0))
    if len(last) and len(first):
        _check_alike(name, first.images.shape[1:], last.images.shape[1:])
        _check_alike(name, first.images.dtype, last.images.dtype)  # type: ignore[union-attr]
    doubt = "; ".join(filter(None, (left_out, *map(_dark, parts))))
    return Source(name, classes, first, last, "none", doubt)


def _dark(part: Given) -> str:
    """What is said of images that are in memory; of stored ones nobody has seen a value."""
    if isinstance(part.images, Stored) or not part.images.size:
        return ""
    return dark(part.where, part.images.dtype, float(part.images.max()))


def _ids(part: Given) -> Any:
    return np.arange(len(part.images)) if part.ids is None else part.ids


def _check_alike(name: str, first: Any, second: Any) -> None:
    if first != second:
        shown = [tuple(each) if isinstance(each, Sequence) else each for each in (first, second)]
        raise InputError(f"{name}: training images are {shown[0]}, test images {shown[1]}")


def checked(where: str, images: np.ndarray | Stored, labels: Any, ids: Any, num_classes: int) -> Split:
    """The split in id order. Raises InputError for lengths, ids, labels or pixels that cannot be."""
    numbers, ids = exact.labels(labels, where).numbers, exact.ids(ids, where)
    if not len(images) == len(numbers) == len(ids):
        raise InputError(f"{where}: {len(images)} images, {len(numbers)} labels and {len(ids)} ids")
    if len(images.shape) != 4 or (len(images) and 0 in images.shape):
        raise InputError(f"{where}: images have the shape {images.shape}, expected [N, C, H, W] without a 0")
    if len(numbers) and numbers.max() >= num_classes:
        raise InputError(f"{where}: label {numbers.max()} is outside 0 … {num_classes - 1}")
    order = np.argsort(ids, kind="stable")
    return Split(
        _ordered(images, order, where), torch.from_numpy(numbers[order]), torch.from_numpy(ids[order])
    )


def _ordered(images: np.ndarray | Stored, order: np.ndarray, where: str) -> Tensor | Stored:
    """Images as they are kept. Raises InputError for types whose white nobody knows, and for what is not finite."""
    if isinstance(images, Stored):
        kept_as(images.member.dtype, where)
        return images.take(torch.from_numpy(order))
    kept_as(images.dtype, where)
    kept = pixels(images)
    if not is_finite(kept):
        raise InputError(f"{where}: images hold NaN or infinity")
    return torch.from_numpy(np.ascontiguousarray(kept[order]))


def root_of(name: str, folder: Path | None) -> Path:
    """Where the files of a named data set are: in `folder` (`data` without one), or in the folder of its name there.

    Image folders also have the names of their archives, and may stand in the working directory.
    """
    root = folder or Path("data")
    known = FOLDERS.get(name, (name,))
    places = [root / each for each in known]
    if folder is None and name in FOLDERS:
        places += [Path(each) for each in known]
    return next((place for place in places if place.is_dir()), root)
