"""Data sets: where the images come from, how they are split, and their ids.

A sample's id is its index in the untransformed source file of its split; (split, id) names it everywhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import npz, transforms
from modeconn_cli.engine.datasets.samples import Batch, Samples
from modeconn_cli.engine.datasets.source import Part, Source
from modeconn_cli.engine.errors import SettingsError, did_you_mean
from modeconn_cli.engine.factories import arguments, call
from modeconn_cli.engine.registry import DATASETS
from modeconn_cli.engine.settings.shared import DataSettings

__all__ = ["Batch", "Data", "Samples", "load", "merge_settings"]

# What a checkpoint remembers of the data its network was trained on.
REMEMBERED = ("dataset", "data_arg", "val_size", "transform", "image_size")


@dataclass(frozen=True)
class Data:
    """A data set ready for use: `fit` is trained on, `val` is cut from the training file."""

    name: str
    num_classes: int
    input_shape: tuple[int, ...]
    fit: Samples
    val: Samples
    test: Samples
    use_test: bool
    remembered: Mapping[str, Any]

    @property
    def held_out(self) -> Samples:
        """The images that `te_` figures are measured on."""
        return self.test if self.use_test else self.val

    def describe(self) -> dict[str, Any]:
        """What a record says about the data."""
        return {
            **self.remembered,
            "fit": len(self.fit),
            "val": len(self.val),
            "test": len(self.test),
            "held_out": "test" if self.use_test else "val",
            "transform": self.fit.transform.describe(),
        }


def merge_settings(settings: DataSettings, remembered: Mapping[str, Any]) -> DataSettings:
    """The settings, completed by what a checkpoint says about its data."""
    known = {name: remembered[name] for name in REMEMBERED if remembered.get(name) is not None}
    if settings.dataset is not None and settings.dataset != known.get("dataset"):
        return settings
    missing = {name: value for name, value in known.items() if getattr(settings, name) in (None, ())}
    if "data_arg" in missing:
        missing["data_arg"] = tuple(missing["data_arg"])
    return replace(settings, **missing)


def load(settings: DataSettings, seed: int, device: torch.device) -> Data:
    """Read, check, split and move a data set. `seed` draws the subset of --max-samples."""
    if settings.dataset is None:
        raise SettingsError("no data set", f"pass --dataset ({', '.join(DATASETS)} or an .npz file)")
    source = _source(settings.dataset, settings)
    channels = source.train.images.shape[1]
    transform = transforms.named(settings.transform or source.transform, channels)
    val_size = settings.val_size or 0
    if val_size >= len(source.train.labels):
        raise SettingsError(f"--val-size {val_size} leaves nothing of {len(source.train.labels)} images")
    cut = len(source.train.labels) - val_size
    rows = torch.arange(len(source.train.labels))

    def samples(part: Part, keep: Tensor, split: str) -> Samples:
        if settings.max_samples is not None and settings.max_samples < len(keep):
            chosen = keyed.permutation(seed, f"subset of {split}", len(keep))[: settings.max_samples]
            keep = keep[chosen.sort().values]
        images = _resized(part.images[keep], settings.image_size)
        return Samples(images, part.labels[keep], part.ids[keep], transform).to(device)

    test_rows = torch.arange(len(source.test.labels))
    data = Data(
        name=source.name,
        num_classes=source.num_classes,
        input_shape=(channels, *_size(source.train.images, settings.image_size)),
        fit=samples(source.train, rows[:cut], "fit"),
        val=samples(source.train, rows[cut:], "val"),
        test=samples(source.test, test_rows, "test"),
        use_test=settings.use_test,
        remembered={
            "dataset": settings.dataset,
            "data_arg": list(settings.data_arg),
            "val_size": val_size,
            "transform": transform.name,
            "image_size": settings.image_size,
        },
    )
    if len(data.held_out) == 0:
        raise SettingsError(
            f"data set '{source.name}' has no {'test' if settings.use_test else 'validation'} images",
            "pass --no-use-test --val-size N to cut some from the training images",
        )
    return data


def _source(name: str, settings: DataSettings) -> Source:
    if name.endswith(".npz"):
        return npz.read(_look_up(Path(name), settings.data_path))
    if name not in DATASETS:
        raise SettingsError(f"unknown data set '{name}'", did_you_mean(name, DATASETS))
    module, function = DATASETS[name].split(":")
    factory = getattr(importlib.import_module(f"modeconn_cli.engine.datasets.{module}"), function)
    source: Source = call(factory, arguments(settings.data_arg, "--data-arg"), "--data-arg")
    return source


def _look_up(path: Path, folder: Path | None) -> Path:
    return folder / path if folder is not None and not path.exists() else path


def _size(images: Tensor, image_size: int | None) -> tuple[int, ...]:
    return tuple(images.shape[2:]) if image_size is None else (image_size, image_size)


def _resized(images: Tensor, size: int | None) -> Tensor:
    """Images of size x size by antialiased bilinear interpolation, in their own type."""
    if size is None or images.shape[2:] == (size, size) or len(images) == 0:
        return images
    resized = F.interpolate(
        images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return resized.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else resized
