"""The values of images: which types are understood, and as what they are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from modeconn_cli.engine.errors import InputError

WHITE_OF_16_BITS = 65535

Array = np.ndarray[Any, Any]


def kept_as(dtype: np.dtype, where: str) -> torch.dtype:
    """uint8 from black 0 to white 255, or float32: 16 bits and booleans by what is white there, floats as they are.

    Raises InputError for types whose white nobody knows.
    """
    if dtype == np.uint8 or dtype.kind == "b":
        return torch.uint8
    if dtype.kind == "f" or (dtype.kind == "u" and dtype.itemsize == 2):
        return torch.float32
    raise InputError(
        f"{where}: images are {dtype}, expected uint8 (0 to 255), uint16 (0 to 65535) or floats",
        "what is white there is not known: divide by it and save float32",
    )


def pixels(images: Array) -> Array:
    """Images of a type that is understood as they are kept; floats beyond float32 become infinite."""
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind == "b":
        return images.astype(np.uint8) * np.uint8(255)
    if images.dtype.kind == "u":
        return images.astype(np.float32) / np.float32(WHITE_OF_16_BITS)
    with np.errstate(over="ignore"):
        return images.astype(np.float32, copy=False)


def is_finite(images: Array) -> bool:
    """Whether all values are numbers."""
    return images.dtype.kind != "f" or bool(np.isfinite(images).all())


def dark(where: str, dtype: np.dtype, largest: float) -> str:
    """Images of 16 bits that use twelve of them or fewer, as cameras and microscopes save them."""
    if dtype.kind != "u" or dtype.itemsize != 2 or not 0 <= largest < 1 << 12:
        return ""
    return f"{where}: images of 16 bits reach {largest:.0f} of {WHITE_OF_16_BITS}, which is taken for white"
