"""Folders of images: a folder of class folders, or two of them for training and testing; Tiny ImageNet's lists.

A class is a folder that holds images itself. Nothing is looked for further down: below `mnist_png/training` and
`mnist_png/testing` lie ten classes, below `mnist_png` none. A sample's id is its place in the split's files, sorted by
class and then by name.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from modeconn_cli.engine.datasets.images import ImageFiles, common_size
from modeconn_cli.engine.datasets.source import Source, Split
from modeconn_cli.engine.errors import InputError, SettingsError, must_exist
from modeconn_cli.engine.results import files
from modeconn_cli.engine.results.parsing import opened, parsing

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
SQUARE = 224  # pixels of images whose files differ in size, as networks for ImageNet take them
SMALL = 64  # pixels of images that are shifted in training, not cut
ANNOTATIONS, INSIDE = "val_annotations.txt", "images"
# What archives and file servers add, beside names that begin with a dot.
HIDDEN = frozenset({"__MACOSX", "@eaDir"})
TRAIN, TEST, VAL = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")


def read(folder: Path, image_size: int | None, workers: int, channels: int = 3) -> Source:
    """The images below a folder, of 3 channels or 1, as `image_size` squares.

    Without one they keep the size that all of them have, else they become 224 x 224. Test images are tested on, those
    for validation where no test images have labels.
    """
    if channels not in (1, 3):
        raise SettingsError(f"--data-arg channels={channels}: images of files have 1 or 3")
    must_exist(folder)
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder of images", "pass --data-path")
    train = _split_folder(folder, TRAIN)
    classes = _classes(train or folder)
    if train is None and {name.casefold() for name in classes} <= {*TEST, *VAL}:
        raise InputError(f"'{folder}' has {_some(tuple(classes))} and no train", "is the download complete?")
    place = None if train is None else _held_out(folder, train, classes)
    listed = _listed(train or folder, classes)
    held_out, left_out = ([], "") if place is None else (_tested(place[0], classes), place[1])
    found = common_size([path for path, _ in listed]) if image_size is None else None
    size = found or (image_size or SQUARE, image_size or SQUARE)
    remark = ""
    if image_size is None:
        height, width = size
        kept = f"keep the {width} x {height} pixels of their files"
        other = f"differ in size and become {width} x {height} (--image-size N: another size)"
        remark = f"images of '{called(folder)}' {kept if found else other}"
    as_files = partial(ImageFiles, size=size, as_found=found is not None, workers=workers, channels=channels)
    return Source(
        name=called(folder),
        num_classes=len(classes),
        train=_split(listed, as_files),
        test=_split(held_out, as_files),
        transform=_usual(channels, found),
        doubt=left_out,
        remark=remark,
        class_names=tuple(classes),
        folder=folder,
    )


def _usual(channels: int, size: tuple[int, int] | None) -> str:
    """The transform of images in files, whose `size` is None where it differs.

    Statistics are those of colours. Small images are whole objects, as CIFAR's are: parts of them would be none.
    """
    if channels == 1:
        return "none"
    return "vgg" if size is not None and max(size) <= SMALL else "imagenet"


def called(folder: Path) -> str:
    """The name of a data set in a folder."""
    return folder.name or folder.resolve().name


@dataclass(frozen=True)
class _Entries:
    """What a folder holds that is not hidden, sorted by name."""

    folder: Path
    folders: tuple[str, ...]
    images: tuple[str, ...]
    others: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> _Entries:
        folders, images, others = list[str](), list[str](), list[str]()
        with files.reading(folder), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in HIDDEN:
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                else:
                    image = os.path.splitext(entry.name)[1].lower() in ENDINGS
                    (images if image else others).append(entry.name)
        return cls(folder, *(tuple(sorted(names)) for names in (folders, images, others)))

    def found(self) -> str:
        """In words, for what is refused."""
        endings = Counter(os.path.splitext(name)[1].lower() or "without an ending" for name in self.others)
        parts = [f"the folders {_some(self.folders)}"] if self.folders else []
        parts += [f"{count} files {ending}" for ending, count in endings.most_common(3)]
        return "found: " + (" and ".join(parts) or "nothing")


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names[:5]) + (f", … ({len(names)})" if len(names) > 5 else "")


def _split_folder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The folder of a split, whatever its capitals. Raises InputError where several could be it."""
    found = [name for name in _Entries.of(folder).folders if name.casefold() in names]
    if len(found) > 1:
        raise InputError(f"'{folder}' holds {_some(tuple(found))}, which could be the same split", "keep one")
    return folder / found[0] if found else None


def _held_out(folder: Path, train: Path, classes: list[str]) -> tuple[Path, str]:
    """Where the images to test on are, and what is left out: a contest's test images have no labels to read."""
    there = [place for names in (TEST, VAL) if (place := _split_folder(folder, names)) is not None]
    if not there:
        raise InputError(f"'{folder}' has {train.name} but neither val nor test", "is the download complete?")
    known = set(classes)
    labelled = [p for p in there if (p / ANNOTATIONS).exists() or known & set(_Entries.of(p).folders)]
    left_out = f"the images in '{labelled[1]}' are not used" if len(labelled) > 1 else ""
    return (labelled or there)[0], left_out


def _tested(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    return (_annotated if (folder / ANNOTATIONS).exists() else _listed)(folder, classes)


def _classes(folder: Path) -> list[str]:
    classes = _Entries.of(folder).folders
    if not classes:
        raise InputError(
            f"'{folder}' has no class folders", "expected one folder per class with images in it"
        )
    return list(classes)


def _listed(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """The images of each class. Raises InputError for a class that the training images lack."""
    found = _classes(folder)
    unknown = set(found) - set(classes)
    if unknown:
        raise InputError(f"'{folder}' has the class '{min(unknown)}', which the training images lack")
    label_of = {name: label for label, name in enumerate(classes)}
    return [(path, label_of[name]) for name in found for path in _images(folder / name)]


def _images(folder: Path) -> list[Path]:
    """The images that a class folder holds itself, or those in `images` where that is all it holds (Tiny ImageNet).

    Raises InputError where there are none, and where there are more below it: whose they are nobody says.
    """
    entries = _Entries.of(folder)
    if not entries.images and entries.folders == (INSIDE,):
        entries = _Entries.of(folder / INSIDE)
    if not entries.images:
        hint = "name one data set: a folder of class folders, or one of train and test with such"
        raise InputError(
            f"'{entries.folder}' holds no images, {entries.found()}",
            hint if entries.folders else "is the download complete?",
        )
    for name in entries.folders:
        below = _Entries.of(entries.folder / name)
        if below.images or below.folders:
            raise InputError(
                f"the class folder '{entries.folder}' holds {len(entries.images)} images and the folder '{name}' "
                f"with {len(below.images)} more",
                "move them into the class folder if they belong to the class, else away",
            )
    return [entries.folder / name for name in entries.images]


def _annotated(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Tiny ImageNet: `<file> TAB <class> TAB …` for the files in `images`."""
    annotations = folder / ANNOTATIONS
    labels = {name: label for label, name in enumerate(classes)}
    out = []
    with opened(annotations) as stream, parsing(annotations, "text file"):
        lines = stream.read().decode("utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        name, _, rest = line.partition("\t")
        label = labels.get(rest.split("\t")[0])
        if label is None:
            raise InputError(f"'{annotations}' line {number} names no class of the training images")
        if name != os.path.basename(name) or not name.isprintable():
            raise InputError(f"'{annotations}' line {number} names no file in '{INSIDE}'")
        out.append((folder / INSIDE / name, label))
    missing = [path for path, _ in out if not path.exists()]
    if missing:
        raise InputError(f"{len(missing)} of {len(out)} images are missing, first '{missing[0]}'")
    return sorted(out, key=lambda entry: (entry[1], entry[0].name))


def _split(listed: list[tuple[Path, int]], as_files: Callable[[tuple[Path, ...]], ImageFiles]) -> Split:
    return Split(
        as_files(tuple(path for path, _ in listed)),
        torch.tensor([label for _, label in listed], dtype=torch.int64),
        torch.arange(len(listed)),
    )
