"""A user's own data: `pkg.mod:factory(split, **args)` returning a map-style data set of (x, y) or (x, y, id)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from modeconn_cli.engine import exact
from modeconn_cli.engine.datasets.source import Given, Source, split_in_two
from modeconn_cli.engine.errors import InputError, McxError
from modeconn_cli.engine.factories import blamed, call, imported


def read(path: str, args: dict[str, Any]) -> Source:
    """Both splits, drawn once into memory."""
    factory = imported(path)
    train, test = (
        _drawn(call(factory, args, "--data-arg", split=name), f"{path} ({name})")
        for name in ("train", "test")
    )
    return split_in_two(path, train, test)


def _drawn(samples: Any, where: str) -> Given:
    if not (hasattr(samples, "__len__") and hasattr(samples, "__getitem__")):
        raise InputError(
            f"{where} is a {type(samples).__name__}, no data set",
            "return something with a length whose items are (x, y) or (x, y, sample_id), for both splits",
        )
    try:
        rows = [samples[i] for i in range(len(samples))]
    except (McxError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{where}: an item fails{blamed(error)}") from error
    if not rows:
        return Given(where, np.zeros((0, 1, 1, 1), np.float32), ())
    lengths = {len(row) if isinstance(row, tuple | list) else type(row).__name__ for row in rows}
    if lengths not in ({2}, {3}):
        shown = " or ".join(sorted(map(str, lengths)))
        raise InputError(f"{where}: samples have {shown} entries, expected (x, y) or (x, y, sample_id)")
    images = _stacked((_pixels(row[0], where) for row in rows), where, "images", alike=True)
    ids = _stacked((row[2] for row in rows), where, "sample ids") if lengths == {3} else None
    return Given(where, images, _stacked((row[1] for row in rows), where, "labels"), ids)


def _stacked(values: Iterable[Any], where: str, what: str, *, alike: bool = False) -> np.ndarray:
    """The values of all samples, none of them cast to another kind; `alike`: all of one type.

    Raises InputError for values of several kinds or shapes, which NumPy would make one of without a word.
    """
    arrays = [exact.array(value, where, what) for value in values]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise InputError(f"{where}: {what} have several shapes: {shapes[0]}, {shapes[1]}")
    kinds = {array.dtype.kind for array in arrays}
    types = sorted({str(array.dtype) for array in arrays})
    if (alike and len(types) > 1) or (len(kinds) > 1 and not kinds <= set("iuf")):
        raise InputError(f"{where}: {what} are of several types: {', '.join(types)}")
    return np.stack(arrays)


def _pixels(x: Any, where: str) -> np.ndarray:
    """[C, H, W] of a tensor, an array or a PIL image, whose channels come last and whose palette is looked up."""
    if hasattr(x, "getbands"):
        picture = np.asarray(x.convert("RGB") if x.mode in ("P", "PA") else x)
        return picture[None] if picture.ndim == 2 else np.moveaxis(picture, 2, 0)
    array = exact.array(x, where, "images")
    return array[None] if array.ndim == 2 else array
