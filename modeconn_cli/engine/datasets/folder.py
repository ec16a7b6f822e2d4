"""Folders of images: ImageNet's train/<class> and val/<class>, Tiny ImageNet's, or one folder of class folders.

A sample's id is its place in the split's files, sorted by class and then by name.
"""

from __future__ import annotations

from pathlib import Path

import torch

from modeconn_cli.engine.datasets.images import ImageFiles
from modeconn_cli.engine.datasets.samples import Samples
from modeconn_cli.engine.datasets.source import AS_THEY_ARE, Source
from modeconn_cli.engine.errors import InputError

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
ANNOTATIONS = "val_annotations.txt"


def read(folder: Path, image_size: int | None, workers: int) -> Source:
    """The images below a folder, as `image_size` squares (224 without one)."""
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder of images", "pass --data-path")
    train = folder / "train"
    if train.is_dir():
        classes = _classes(train)
        val = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), None)
        if val is None:
            raise InputError(f"'{folder}' has train but neither val nor test", "is the download complete?")
        annotations = val / ANNOTATIONS
        held_out = _annotated(val, annotations, classes) if annotations.exists() else _listed(val, classes)
    else:
        train, classes, held_out = folder, _classes(folder), []
    return Source(
        name=folder.name,
        num_classes=len(classes),
        train=_split(_listed(train, classes), image_size or 224, workers),
        test=_split(held_out, image_size or 224, workers),
        transform="imagenet",
    )


def _classes(folder: Path) -> list[str]:
    classes = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    if not classes:
        raise InputError(
            f"'{folder}' has no class folders", "expected one folder per class with images in it"
        )
    return classes


def _listed(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """The images of each class, also in folders below it (Tiny ImageNet's `images`)."""
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    unknown = set(found) - set(classes)
    if unknown:
        raise InputError(f"'{folder}' has the class '{min(unknown)}', which the training images lack")
    out = []
    for label, name in enumerate(classes):
        images = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in ENDINGS)
        if not images and name in found:
            raise InputError(f"'{folder / name}' holds no images", "is the download complete?")
        out += [(path, label) for path in images]
    return out


def _annotated(folder: Path, annotations: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Tiny ImageNet: `<file> TAB <class> TAB …` for the files in `images`."""
    labels = {name: label for label, name in enumerate(classes)}
    out = []
    for number, line in enumerate(annotations.read_text("utf-8").splitlines(), start=1):
        name, _, rest = line.partition("\t")
        label = labels.get(rest.split("\t")[0])
        if label is None:
            raise InputError(f"'{annotations}' line {number} names no class of the training images")
        out.append((folder / "images" / name, label))
    missing = [path for path, _ in out if not path.exists()]
    if missing:
        raise InputError(f"{len(missing)} of {len(out)} images are missing, first '{missing[0]}'")
    return sorted(out, key=lambda entry: (entry[1], entry[0].name))


def _split(files: list[tuple[Path, int]], size: int, workers: int) -> Samples:
    return Samples(
        ImageFiles(tuple(path for path, _ in files), size, workers),
        torch.tensor([label for _, label in files], dtype=torch.int64),
        torch.arange(len(files)),
        AS_THEY_ARE,
    )
