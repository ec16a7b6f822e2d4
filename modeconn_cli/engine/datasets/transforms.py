"""Normalisation and augmentation on the device, in batches.

Every random choice is keyed by (seed, epoch, sample id): batch size, order and workers cannot change it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modeconn_cli.engine import keyed
from modeconn_cli.engine.errors import SettingsError


def resized(images: Tensor, size: int | None) -> Tensor:
    """Images of size x size by antialiased bilinear interpolation, in their own type."""
    if size is None or images.shape[2:] == (size, size) or len(images) == 0:
        return images
    out = torch.empty(len(images), images.shape[1], size, size, dtype=images.dtype)
    for part, into in zip(torch.split(images, 256), torch.split(out, 256), strict=True):
        found = F.interpolate(
            part.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
        )
        into.copy_(found.round().clamp(0, 255) if images.dtype == torch.uint8 else found)
    return out


@dataclass(frozen=True)
class Transform:
    """What is done to an image: x -> (x - mean) / std always, the rest in training only.

    `mean` and `std` are per channel, where uint8 images lie in [0, 1]; one value serves all channels.
    """

    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    flip: bool = False
    crop_padding: int = 0
    crop_mode: str = "constant"
    rotation: float = 0.0  # degrees, drawn from [0, rotation)
    resized_crop: bool = False  # of image files: a random part of the image in training, its centre otherwise

    def normalise(self, images: Tensor, white: float | None = None) -> Tensor:
        """float32 [B, C, H, W] from uint8 or float images, of which `white` becomes 1: 255 of uint8, else 1.

        Floats are then used as they are without a mean.
        """
        whole = images.dtype == torch.uint8
        white = white or _white(images)
        # One memory layout for all: kernels round differently in another one.
        floats = images.to(torch.float32, memory_format=torch.contiguous_format)
        # uint8 images have become a fresh tensor, which may be changed in place; of others there has to be a copy, as a
        # network may begin with an operation in place.
        floats = floats if whole else floats.clone()
        if not self.mean:
            return floats.div_(white)
        factor = torch.tensor([1 / white / std for std in self.std], device=images.device).view(1, -1, 1, 1)
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=images.device)
        return floats.mul_(factor).add_(shift.view(1, -1, 1, 1))

    def augment(
        self, images: Tensor, ids: Tensor, seed: int, epoch: int, white: float | None = None
    ) -> Tensor:
        """Randomly flipped, shifted and rotated images of the same shape and type; `white` as for `normalise`."""
        if not (self.flip or self.crop_padding or self.rotation):
            return images
        draws = keyed.uniform(seed, "augment", ids, draw=epoch, width=4)
        mirrored = (draws[:, 2:3] < 0.5) if self.flip else torch.zeros_like(draws[:, 2:3], dtype=torch.bool)
        if self.crop_padding:
            corner = (draws[:, :2] * (2 * self.crop_padding + 1)).long()
            images = self._crop(images, corner, mirrored)
        elif self.flip:
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        if self.rotation:
            images = _rotate(images, draws[:, 3] * self.rotation, self.mean, white or _white(images))
        return images

    def _crop(self, images: Tensor, corner: Tensor, mirrored: Tensor) -> Tensor:
        """Windows of the padded images, mirrored where `mirrored` [B, 1] says so.

        `corner` is the upper left corner (row, column), [B, 2]. Crop and mirror are one gather; the channels of
        uint8 images go through it as one 32-bit word.
        """
        pad, (height, width) = self.crop_padding, images.shape[2:]
        rows = corner[:, :1] + torch.arange(height, device=images.device)
        across = torch.arange(width, device=images.device)
        columns = corner[:, 1:] + torch.where(mirrored, across.flip(0), across)
        index = (rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]).flatten(1)
        if images.dtype == torch.uint8 and images.shape[1] <= 4:
            words = self._packed(images).view(torch.int32).flatten(1)
            window = words.gather(1, index).view(torch.uint8).view(len(images), height, width, 4)
            return window[..., : images.shape[1]].permute(0, 3, 1, 2)
        padded = F.pad(images.float(), (pad,) * 4, mode=self.crop_mode).to(images.dtype).flatten(2)
        index = index[:, None].expand(-1, images.shape[1], -1)
        return padded.gather(2, index).view(images.shape)

    def _packed(self, images: Tensor) -> Tensor:
        """The padded images with four channels last, uint8 [B, H + 2p, W + 2p, 4]."""
        pad, (count, channels, height, width) = self.crop_padding, images.shape
        size = (count, height + 2 * pad, width + 2 * pad, 4)
        out = torch.zeros(size, dtype=torch.uint8, device=images.device)
        if self.crop_mode == "constant":
            out[:, pad : pad + height, pad : pad + width, :channels] = images.permute(0, 2, 3, 1)
        else:
            padded = F.pad(images.float(), (pad,) * 4, mode=self.crop_mode)
            out[..., :channels] = padded.permute(0, 2, 3, 1)
        return out

    @property
    def said(self) -> str:
        """The transform in words: its name, and the statistics where they are others than the name's."""
        said = f"transform {self.name}"
        if self.has_own_statistics:
            said += "".join(
                f", {what} {','.join(f'{value:g}' for value in values)}"
                for what, values in (("mean", self.mean), ("std", self.std))
            )
        return said

    @property
    def spelled(self) -> str:
        """The transform in words, with what it does to every image."""
        if not self.mean:
            return f"transform {self.name} (0 to 1, not normalised)"
        mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"transform {self.name} (mean {mean}, std {std})"

    @property
    def augmentation(self) -> str:
        """What is done at random in training, in words; empty where nothing is."""
        parts = (
            "random parts of the image, resized" if self.resized_crop else "",
            f"random shifts by up to {self.crop_padding} pixels" if self.crop_padding else "",
            "flips" if self.flip else "",
            f"rotations by up to {self.rotation:g} degrees" if self.rotation else "",
        )
        return " and ".join(filter(None, parts))

    @property
    def has_own_statistics(self) -> bool:
        known = TRANSFORMS.get(self.name, self)
        return (self.mean, self.std) != (known.mean, known.std)

    def describe(self) -> dict[str, Any]:
        """What a record says about it."""
        return {"name": self.name, "mean": list(self.mean), "std": list(self.std), "said": self.said}


def _white(images: Tensor) -> float:
    return 255.0 if images.dtype == torch.uint8 else 1.0


def _rotate(images: Tensor, degrees: Tensor, mean: tuple[float, ...], white: float) -> Tensor:
    """Counter-clockwise rotation about the centre by nearest neighbour.

    Outside is the mean colour, zero once it is normalised; black without a mean.
    """
    fill = torch.tensor([round(white * m) if white > 1 else m for m in mean or (0.0,)], device=images.device)
    fill = fill.float().view(1, -1, 1, 1)
    angle = degrees.float() * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    ratio = images.shape[3] / images.shape[2]
    theta = torch.stack([cos, -sin / ratio, zero, sin * ratio, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    turned = F.grid_sample(images - fill, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return (turned + fill).to(images.dtype)


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

# vgg and resnet as in Garipov et al. 2018; cifar100 as in Dohare et al. 2024.
TRANSFORMS: dict[str, Transform] = {
    "none": Transform("none"),
    "half": Transform("half", (0.5,), (0.5,)),
    "mnist": Transform("mnist", (0.1307,), (0.3081,)),
    "vgg": Transform("vgg", *IMAGENET, flip=True, crop_padding=4),
    "resnet": Transform("resnet", *CIFAR10, flip=True, crop_padding=4),
    "imagenet": Transform("imagenet", *IMAGENET, flip=True, resized_crop=True),
    "cifar100": Transform(
        "cifar100", *CIFAR100, flip=True, crop_padding=4, crop_mode="reflect", rotation=15.0
    ),
}


def named(name: str, channels: int) -> Transform:
    """A transform for images with that many channels; SettingsError where its statistics do not fit."""
    transform = TRANSFORMS[name]
    if len(transform.mean) not in (0, 1, channels):
        raise SettingsError(
            f"transform '{name}' is for images with {len(transform.mean)} channels, these have {channels}",
            "choose --transform half or none",
        )
    return transform


def with_statistics(
    transform: Transform, mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> Transform:
    """Make a transform of the same augmentation with another mean and standard deviation; both must be given."""
    for flag, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (1, channels):
            raise SettingsError(
                f"{flag} needs 1 or {channels} values, got {len(values)}", "give both --mean and --std"
            )
    if min(std) <= 0:
        raise SettingsError(f"--std must be positive, got {min(std)}")
    return replace(transform, mean=mean, std=std)
