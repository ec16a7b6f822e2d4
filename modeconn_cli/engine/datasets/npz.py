"""Data sets in one `.npz` file: images, labels, and optionally sample_ids and split; or arrays of each split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from modeconn_cli.engine.datasets.source import Given, Source, split_in_two
from modeconn_cli.engine.datasets.stored import Member, Stored
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results.arrays import Archive, npz

WHOLE = ("images", "labels")
# As Keras and MedMNIST name the arrays of each split; the first of each pair are the images.
PER_SPLIT = (("x_{}", "y_{}"), ("{}_images", "{}_labels"))
HELD_OUT = ("test", "val")  # in the order of their standing


def read(path: Path) -> Source:
    """Images [N, C, H, W], [N, H, W, C] or [N, H, W] and labels [N], [N, 1] or one-hot.

    `split` [N] says train or test, without it all are for training; or every split has arrays of its own. The images
    are yet to be read (`Stored`): which of them are used follows from the rest.
    """
    if not path.exists():
        raise InputError(f"'{path}' does not exist", "pass --data-path or the whole path")
    with npz(path) as archive:  # as it is read, every array is compared with its checksum
        return _read(path, archive)


def _read(path: Path, file: Archive) -> Source:
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
    train = splits["train"]
    return split_in_two(path.stem, train, splits[there[0]] if there else _none_of(train), left_out)


def _none_of(given: Given) -> Given:
    """A split without a sample, beside another one."""
    assert isinstance(given.images, Stored)
    nothing = np.arange(0)
    return Given(given.where, replace(given.images, part=nothing, rows=nothing), given.labels[:0])


def _part(path: Path, file: Archive, pair: tuple[str, ...], split: str) -> Given | None:
    """The arrays of one split, None where it is not there. Raises InputError where one of the two is missing."""
    images, labels = (name.format(split) for name in pair)
    if images not in file and labels not in file:
        return None
    member, where = _member(path, file, images), f"'{path}' ({split})"
    rows = np.arange(member.shape[0])
    return Given(where, Stored(where, member, rows, rows), _array(path, file, labels))


def _by_column(path: Path, file: Archive) -> Source:
    member, labels = _member(path, file, WHOLE[0]), _array(path, file, WHOLE[1])
    count = member.shape[0]
    ids = _array(path, file, "sample_ids") if "sample_ids" in file else np.arange(count)
    split = _array(path, file, "split") if "split" in file else None
    if not len(labels) == len(ids) == (count if split is None else len(split)) == count:
        raise InputError(f"'{path}': images, labels, sample_ids and split differ in length")
    train, test = (
        Given(where, Stored(where, member, rows, rows), labels[rows], ids[rows])
        for name, rows in _rows(path, split, count).items()
        if (where := f"'{path}' ({name})")
    )
    return split_in_two(path.stem, train, test)


def _rows(path: Path, split: np.ndarray | None, count: int) -> dict[str, np.ndarray]:
    """The rows of each split. Raises InputError for what says neither train nor test."""
    if split is None:
        return {"train": np.arange(count), "test": np.arange(0)}
    if split.ndim != 1 or split.dtype.kind != "U":
        shown = f"the shape {split.shape}" if split.ndim != 1 else str(split.dtype)
        raise InputError(f"'{path}': split holds {shown}, expected train and test as text [N]")
    found = {name: np.flatnonzero(split == name) for name in ("train", "test")}
    if sum(map(len, found.values())) < count:
        unknown = set(np.unique(split).tolist()) - {*found}
        raise InputError(f"'{path}': split holds '{min(unknown)}', expected train and test")
    return found


def _member(path: Path, file: Archive, name: str) -> Member:
    _check(path, file, name)
    return Member.of(file, name)


def _array(path: Path, file: Archive, name: str) -> np.ndarray:
    _check(path, file, name)
    return file[name]


def _check(path: Path, file: Archive, name: str) -> None:
    """Raises InputError where there is no array of a name."""
    if name not in file:
        raise InputError(f"'{path}' has no array '{name}'", f"found: {', '.join(file) or 'none'}")
    if not file.header(name)[0]:
        raise InputError(f"'{path}': '{name}' is a single value")
