"""Images in files, read batch by batch by worker processes.

Every random crop is keyed by (seed, epoch, sample id): the number of workers and the batch size cannot change it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets.transforms import Transform
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.devices import cores

if TYPE_CHECKING:
    from PIL import Image

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of a random crop (Szegedy et al. 2015)
CENTRE = 224 / 256  # of the shorter side, kept in evaluation
TRIES = 10
NAMED = 5  # unreadable files shown


@dataclass(frozen=True)
class ImageFiles:
    """Image files that become uint8 [3, size, size] each."""

    paths: tuple[Path, ...]
    size: int
    workers: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.paths), 3, self.size, self.size)

    def take(self, rows: Tensor) -> ImageFiles:
        return replace(self, paths=tuple(self.paths[row] for row in rows.tolist()))

    def read(
        self,
        rows: Sequence[Tensor],
        ids: Tensor,
        transform: Transform,
        augment: tuple[int, int] | None,
    ) -> Iterator[Tensor]:
        """The images of each batch of row numbers, uint8 [B, 3, size, size]. Raises InputError for bad files."""
        from torch.utils.data import DataLoader

        reader = _Reader(self, ids, transform.resized_crop, augment)
        loader: DataLoader[Any] = DataLoader(
            reader,  # type: ignore[arg-type]
            batch_sampler=[these.tolist() for these in rows],
            num_workers=min(self.workers, len(rows)),
            collate_fn=_collate,
        )
        for images in loader:
            if isinstance(images, str):
                raise self._unreadable(images)
            yield images

    def _unreadable(self, first: str) -> InputError:
        """What is wrong with one file, and how many more there are (found by reading every file)."""
        bad = [str(path) for path in self.paths if _decoded(path) is None] or [first]
        shown = ", ".join(f"'{path}'" for path in bad[:NAMED]) + (", …" if len(bad) > NAMED else "")
        return InputError(
            f"{len(bad)} of {len(self.paths)} images cannot be read: {shown}", "fetch them again"
        )


@dataclass(frozen=True)
class _Reader:
    """A map-style data set that decodes one image."""

    files: ImageFiles
    ids: Tensor
    resized_crop: bool
    augment: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.files.paths)

    def __getitem__(self, row: int) -> np.ndarray | str:
        """uint8 [3, size, size], or the path of a file that cannot be read."""
        from PIL import Image

        path, size = self.files.paths[row], self.files.size
        image = _decoded(path)
        if image is None:
            return str(path)
        box: tuple[float, float, float, float] = (0, 0, image.width, image.height)
        if self.resized_crop and image.size != (size, size):
            box = self._crop(image.width, image.height, row)
        if image.size != (size, size) or self.resized_crop:
            image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        return np.asarray(image).transpose(2, 0, 1).copy()

    def _crop(self, width: int, height: int, row: int) -> tuple[float, float, float, float]:
        """The part of the image that is used: random in training, the centre otherwise."""
        if self.augment is None:
            side = min(width, height) * CENTRE
            left, upper = (width - side) / 2, (height - side) / 2
            return left, upper, left + side, upper + side
        seed, epoch = self.augment
        draws = keyed.uniform(seed, "crop", self.ids[row : row + 1], draw=epoch, width=4 * TRIES)[0].tolist()
        for area, ratio, across, down in zip(*[iter(draws)] * 4, strict=True):
            part = (AREA[0] + (AREA[1] - AREA[0]) * area) * width * height
            aspect = math.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * ratio)
            w, h = round(math.sqrt(part * aspect)), round(math.sqrt(part / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, upper = int(across * (width - w + 1)), int(down * (height - h + 1))
                return left, upper, left + w, upper + h
        side = min(width, height)
        return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def _collate(images: Sequence[np.ndarray | str]) -> Tensor | str:
    """One tensor, or the first path that could not be read."""
    bad = next((image for image in images if isinstance(image, str)), None)
    return bad if bad is not None else torch.from_numpy(np.stack(images))


def _decoded(path: Path) -> Image.Image | None:
    """The image of a file; None where it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            return file.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return None


def default_workers() -> int:
    """One process per core that is left beside the training itself, eight at most."""
    return max(0, min(8, cores() - 1))
