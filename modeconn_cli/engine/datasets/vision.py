"""MNIST and CIFAR through torchvision's readers, as its files hold them."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from modeconn_cli.engine.datasets.source import Source, Split, checked, root_of
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.factories import of_torchvision

CLASSES = {"mnist": ("MNIST", 10), "cifar10": ("CIFAR10", 10), "cifar100": ("CIFAR100", 100)}
TRANSFORMS = {"mnist": "mnist", "cifar10": "resnet", "cifar100": "cifar100"}


def vision(name: str, folder: Path | None, download: bool) -> Source:
    """The data set below `folder` or `folder`/`name`; fetched there only where `download` says so."""
    root = root_of(name, folder)
    return Source(
        name=name,
        num_classes=CLASSES[name][1],
        train=_split(name, root, True, download),
        test=_split(name, root, False, download),
        transform=TRANSFORMS[name],
    )


def _split(name: str, root: Path, train: bool, download: bool) -> Split:
    cls: Any = getattr(of_torchvision("datasets"), CLASSES[name][0])
    try:
        found = cls(root=str(root), train=train, download=download)
    except RuntimeError as error:
        there = f"{name} is not in '{root}' or not complete there"
        raise InputError(
            there if root.exists() else f"'{root}', where {name} is looked for, does not exist",
            "pass --data-path, or --download to fetch it",
        ) from error
    except (OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{name} in '{root}' cannot be read: {error}", "pass --download to fetch it again"
        ) from error
    images, labels = np.asarray(found.data), np.asarray(found.targets)
    images = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
    return checked(name, images, labels, np.arange(len(labels)), CLASSES[name][1])


mnist, cifar10, cifar100 = (partial(vision, name) for name in CLASSES)
