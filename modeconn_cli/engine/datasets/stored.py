"""Images in a member of an archive: rows of it are chosen first, and copied while the member is streamed through.

What is held is what is used. The whole member is read all the same: its checksum comes at its end, and what cannot be
a pixel is refused wherever it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.datasets.pixels import is_finite, kept_as, pixels
from modeconn_cli.engine.datasets.transforms import resized
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import arrays

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Member:
    """The array of images in an archive. `checksums` are those of all that the archive holds."""

    path: Path
    name: str
    shape: tuple[int, int, int, int]  # [N, C, H, W]
    dtype: np.dtype
    channels_last: bool
    checksums: Mapping[str, int]

    @classmethod
    def of(cls, archive: arrays.Archive, name: str) -> Member:
        """The images by their header alone, [N, C, H, W], [N, H, W, C] or [N, H, W]."""
        shape, dtype = archive.header(name)
        four = (shape[0], 1, *shape[1:]) if len(shape) == 3 else shape
        if len(four) != 4:
            raise InputError(
                f"'{archive.path}': images have shape {shape}, expected [N, C, H, W] or [N, H, W, C]"
            )
        last = four[3] in (1, 3, 4) and four[1] not in (1, 3, 4)
        count, one, two, three = four
        whole = (count, three, one, two) if last else (count, one, two, three)
        return cls(archive.path, name, whole, dtype, last, archive.checksums())

    def pieces(self, archive: arrays.Archive) -> Iterator[tuple[int, Array]]:
        """Some rows after the other, [n, C, H, W], with the number of the first of them; floats as they are kept."""
        for begin, piece in archive.rows(self.name):
            four = piece[:, None] if piece.ndim == 3 else piece
            four = np.moveaxis(four, 3, 1) if self.channels_last else four
            yield begin, pixels(four) if four.dtype.kind == "f" else four


@dataclass(frozen=True)
class Stored:
    """The images [N, C, H, W] of a split that are yet to be read: `rows` of its member, whose `part` the split is."""

    where: str
    member: Member
    part: Array = field(repr=False)  # int64, ascending
    rows: Array = field(repr=False)  # int64, in the order of the samples

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.rows), *self.member.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Of the images as they are used."""
        return kept_as(self.member.dtype, self.where)

    def take(self, rows: Tensor) -> Stored:
        return replace(self, rows=self.rows[rows.numpy()])


@dataclass
class Read:
    """The images that were wanted of a split, and the least and the largest value in all of it as the file has them.

    Of bytes nobody asks for these.
    """

    images: Tensor
    low: float = math.inf
    high: float = -math.inf


def read(wanted: Sequence[Stored], size: int | None = None) -> list[Read]:
    """The images of splits of one archive, `size` x `size` where that is said; every member is gone through once.

    Raises InputError for a damaged member, for values that are no pixels, and for a file that is another one by now.
    """
    path = wanted[0].member.path
    fills = [_Fill(each, size) for each in wanted]
    with arrays.npz(path) as archive:
        if archive.checksums() != wanted[0].member.checksums:
            raise InputError(f"'{path}' has changed while it was read", "run the same command again")
        for member in {each.member.name: each.member for each in wanted}.values():
            own = [fill for fill in fills if fill.of.member.name == member.name]
            for begin, piece in member.pieces(archive):
                for fill in own:
                    fill.see(begin, piece)
    return [fill.found for fill in fills]


class _Fill:
    """Takes the rows of one split out of the pieces of a member."""

    def __init__(self, of: Stored, size: int | None) -> None:
        shape = of.shape if size is None or len(of) == 0 else (*of.shape[:2], size, size)
        self.of, self._size = of, size
        self.found = Read(torch.empty(shape, dtype=of.dtype))
        self._looked_at = of.member.dtype.kind in "fu" and of.member.dtype != np.uint8
        ascending = bool((of.rows[1:] >= of.rows[:-1]).all())
        self._order = None if ascending else np.argsort(of.rows, kind="stable")
        self._rows = of.rows if self._order is None else of.rows[self._order]

    def see(self, begin: int, piece: Array) -> None:
        """Rows of the member from `begin` on."""
        if self._looked_at:
            self._look(_among(self.of.part, begin, piece))
        first, last = np.searchsorted(self._rows, (begin, begin + len(piece)))
        if first == last:
            return
        # One memory layout for all: resizing rounds differently in another one.
        chosen = torch.from_numpy(np.ascontiguousarray(pixels(piece[self._rows[first:last] - begin])))
        places = slice(first, last) if self._order is None else torch.from_numpy(self._order[first:last])
        self.found.images[places] = resized(chosen, self._size)

    def _look(self, values: Array) -> None:
        """Values of the split, used or not: all must be finite."""
        if values.size == 0:
            return
        if not is_finite(values):
            raise InputError(f"{self.of.where}: images hold NaN or infinity")
        self.found.low = min(self.found.low, float(values.min()))
        self.found.high = max(self.found.high, float(values.max()))


def _among(rows: Array, begin: int, piece: Array) -> Array:
    """Which of a member's `rows`, ascending, a piece holds."""
    first, last = np.searchsorted(rows, (begin, begin + len(piece)))
    return piece if last - first == len(piece) else piece[rows[first:last] - begin]


def stand_in(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Images of no meaning where only their shape matters: each is the one before, moved by one pixel.

    They lie in one another, so that any number takes the memory of one. They differ, as a network's outputs are tried.
    """
    count, *one = shape
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(max(count, 1) + math.prod(one), generator=generator)
    values = (values * 255).to(dtype) if dtype == torch.uint8 else values
    steps = [math.prod(one[k + 1 :]) for k in range(len(one))]
    return values.to(device).as_strided((count, *one), (1, *steps))
