"""The file that `mcx animate` reads: how far each layer is, at each position of a curve."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results import files
from modeconn_cli.engine.settings.animate import Quantity

Kind = Literal["conv", "linear", "norm", "other"]

KINDS: dict[str, Kind] = {"conv": "conv", "fc": "linear", "linear": "linear", "norm": "norm"}
METRICS: tuple[Quantity, ...] = (
    "normalized_l2",
    "relative",
    "raw_l2",
    "modulo_swap_l2",
    "from_line_l2",
    "norm_difference",
)
# Past this no axis can be drawn in float64; such a value is as good as infinite.
LARGEST = 1e300


@dataclass(frozen=True)
class LayerDistances:
    """One metric of L layers at T positions; a value that is not finite is NaN."""

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    t: NDArray[np.float64]  # [T], rising
    values: NDArray[np.float64]  # [T, L]
    metric: str
    swapped: int | None  # index of the layer whose units were exchanged
    lost: str  # name of a swapped layer that is none of `names`, else empty

    @property
    def nonfinite(self) -> int:
        return int(np.isnan(self.values).sum())


def read(path: Path, metric: str) -> LayerDistances:
    """Layer distances in our layout or the original one. Raises InputError where they cannot be drawn."""
    arrays = _load(path, metric)
    names, types = _texts(path, arrays, "layer_names"), _texts(path, arrays, "layer_types")
    t = _numbers(path, arrays, "t_values")
    values = _numbers(path, arrays, metric)
    if t.ndim != 1 or not t.size or not names:
        raise InputError(f"'{path}': there are {len(names)} layers and t_values has shape {t.shape}")
    if len(types) != len(names) or values.shape != (len(t), len(names)):
        raise InputError(
            f"'{path}': {metric} has shape {values.shape}, expected ({len(t)}, {len(names)}): {len(t)} t_values, "
            f"{len(names)} layer_names, {len(types)} layer_types"
        )
    if not np.isfinite(t).all() or (np.diff(t) <= 0).any():
        raise InputError(f"'{path}': t_values do not rise from the first to the last")
    values = np.where(np.abs(values) <= LARGEST, values, np.nan)
    if np.isnan(values).all():
        raise InputError(f"'{path}': {metric} has no finite value")
    swapped = _swapped(path, arrays)
    found = swapped in names
    return LayerDistances(
        names=names,
        kinds=tuple(KINDS.get(word.casefold(), "other") for word in types),
        t=t,
        values=values,
        metric=metric,
        swapped=names.index(swapped) if found else None,
        lost="" if found else swapped,
    )


def _load(path: Path, metric: str) -> dict[str, NDArray[Any]]:
    """The arrays that a picture of `metric` needs, and those on the swap where the file has them."""
    required = ("layer_names", "layer_types", "t_values", metric)
    optional = ("swapped_layer_name", "swapped_block", "swapped_layer")
    with files.reading(path), path.open("rb") as stream:
        try:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            present = set(file.files)
            arrays = {name: file[name] for name in (*required, *optional) if name in present}
        # What zipfile, zlib and numpy raise on cut, altered, encrypted or oversized members and on pickles.
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"'{path}' is not a readable .npz file: {reason}") from error
    for name in required:
        if name not in present:
            known = [other for other in METRICS if other in present]
            what = "metrics" if name == metric and known else "arrays"
            found = ", ".join(known if what == "metrics" else sorted(present)[:12]) or "none"
            raise InputError(f"'{path}' has no array '{name}'", f"its {what}: {found}")
    return arrays


def _numbers(path: Path, arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.float64]:
    array = arrays[name]
    if array.dtype.kind not in "fiu":
        raise InputError(f"'{path}': {name} holds {array.dtype}, expected numbers")
    with np.errstate(over="ignore"):
        return array.astype(np.float64)


def _texts(path: Path, arrays: dict[str, NDArray[Any]], name: str) -> tuple[str, ...]:
    array = arrays[name]
    if array.dtype.kind not in "US" or array.ndim != 1:
        raise InputError(
            f"'{path}': {name} is {array.dtype} of shape {array.shape}, expected a list of texts"
        )
    decode: Callable[[Any], str] = (
        str if array.dtype.kind == "U" else lambda item: item.decode("utf-8", "replace")
    )
    return tuple(decode(item) for item in array)


def _swapped(path: Path, arrays: dict[str, NDArray[Any]]) -> str:
    """The name of the swapped layer, empty where nothing was swapped.

    Our files name it. The original ones number it by block and layer and call their layers block<b>_conv<l>.
    """
    if "swapped_layer_name" in arrays:
        return "".join(
            _texts(
                path,
                {"swapped_layer_name": arrays["swapped_layer_name"].reshape(-1)[:1]},
                "swapped_layer_name",
            )
        )
    if "swapped_block" not in arrays or "swapped_layer" not in arrays:
        return ""
    block, layer = (_numbers(path, arrays, name).reshape(-1) for name in ("swapped_block", "swapped_layer"))
    if block.size != 1 or layer.size != 1 or not (block[0] >= 0 and layer[0] >= 0):
        return ""
    return f"block{block[0]:.0f}_conv{layer[0]:.0f}"
