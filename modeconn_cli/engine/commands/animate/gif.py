"""Frames as a GIF: a palette of 64 colours, delays in hundredths of a second, one comment."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

LONGEST = 65535  # the format stores the delay in 16 bits
# imageio hands the palette to Pillow, which spends on each frame a time that grows with the cube of its length:
# 256 colours 44 ms, 64 colours 4 ms.
COLOURS = 64


def delay(fps: float) -> int:
    """Hundredths of a second per frame: the nearest that the format can hold."""
    return min(max(math.floor(100 / fps + 0.5), 1), LONGEST)


class Palette:
    """Colours of a picture as numbers: white mixed with each ink in so many steps.

    Text and lines are drawn on white with soft edges, so that every shade on the picture is such a mixture; the
    few others take the nearest.
    """

    def __init__(self, inks: Sequence[tuple[str, int]]) -> None:
        shades = [(255.0, 255.0, 255.0)] * 2  # number 0 means in `_numbers`: not met yet
        for ink, steps in inks:
            colour = np.array(rgb(ink), dtype=float)
            shades += [tuple(255 + (colour - 255) * (k / steps)) for k in range(1, steps + 1)]
        if len(shades) > COLOURS:
            raise ValueError(f"{len(shades)} colours, at most {COLOURS}")
        self.colours = np.rint(np.array(shades)).astype(np.int64)
        self._numbers = np.zeros(1 << 24, np.uint8)

    @property
    def data(self) -> bytes:
        return bytes(self.colours.astype(np.uint8))

    def index(self, picture: NDArray[np.uint8]) -> Pixels:
        """The number of each pixel's colour, (H, W, 3 or 4) -> (H, W)."""
        wide = picture[..., :3].astype(np.uint32)
        keys = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
        numbers: Pixels = self._numbers[keys]
        if not numbers.all():
            new = np.unique(keys[numbers == 0])
            parts = np.stack([new >> 16, (new >> 8) & 255, new & 255], axis=1).astype(np.int64)
            distance = ((parts[:, None] - self.colours[None, 1:]) ** 2).sum(axis=2)
            self._numbers[new] = 1 + distance.argmin(axis=1)
            numbers = self._numbers[keys]
        return numbers

    def number(self, ink: str) -> int:
        """The number of one pure colour."""
        return int(self.index(np.array([[rgb(ink)]], dtype=np.uint8))[0, 0])


def rgb(ink: str) -> tuple[int, int, int]:
    """`#rrggbb` as three numbers."""
    return int(ink[1:3], 16), int(ink[3:5], 16), int(ink[5:7], 16)


def encode(frames: Iterable[Pixels], palette: Palette, hundredths: int, comment: str) -> bytes:
    """A GIF that repeats for ever; frames must differ, equal neighbours would be merged."""
    buffer = io.BytesIO()
    with imageio.imopen(buffer, "w", extension=".gif", plugin="pillow") as opened:
        file: Any = opened  # the options of one plugin are unknown to imageio's types
        for frame in frames:
            file.write(
                frame,
                mode="P",
                is_batch=False,
                palette=palette.data,
                duration=10 * hundredths,
                loop=0,
                optimize=False,
                comment=comment.encode("ascii"),
            )
    return buffer.getvalue()
