"""The file that `mcx animate` reads: how far each layer is, at each position of a curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.results.arrays import npz

if TYPE_CHECKING:
    import pandas as pd

KINDS = {"conv": "convolution", "fc": "linear", "linear": "linear", "norm": "normalization"}
SWAP = ("swapped_layer_name", "swapped_block", "swapped_layer")  # where the file speaks of a swap
# Past this no axis can be drawn in float64; such a value is as good as infinite.
LARGEST = 1e300


# metric: the title of its picture, the label of its axis
METRICS = {
    "normalized_l2": ("Normalized L2 distance of each layer", "normalized L2 distance from endpoint 0"),
    "relative": ("Relative distance of each layer", "L2 distance from endpoint 0, % of its norm"),
    "raw_l2": ("Raw L2 distance of each layer", "L2 distance from endpoint 0"),
    "modulo_swap_l2": (
        "L2 distance of each layer, modulo the swap",
        "L2 distance from endpoint 0 or its swapped copy",
    ),
    "from_line_l2": (
        "L2 distance of each layer from the straight line",
        "L2 distance from the line between the endpoints",
    ),
    "norm_difference": ("Norm difference of each layer", "difference of norms, t and endpoint 0"),
}


@dataclass(frozen=True)
class LayerDistances:
    """One metric of L layers at T positions; a value that is not finite is NaN."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]  # convolution, linear, normalization or other
    t: NDArray[np.float64]  # [T], rising
    values: NDArray[np.float64]  # [T, L]
    metric: str
    swapped: int | None  # index of the layer whose units were exchanged
    lost: str  # name of a swapped layer that is none of `names`, else empty

    @property
    def nonfinite(self) -> int:
        return int(np.isnan(self.values).sum())

    @property
    def drawn(self) -> NDArray[np.float64]:
        """The values in the unit of their axis."""
        return 100 * self.values if self.metric == "relative" else self.values

    def span(self) -> tuple[float, float]:
        """The smallest and largest value that is drawn, and zero."""
        low, high = min(float(np.nanmin(self.drawn)), 0.0), max(float(np.nanmax(self.drawn)), 0.0)
        # Where there is nothing to see, and ticks so close cannot be computed, the axis goes to one.
        return (low, high) if high - low > 1e-290 else (0.0, 1.0)


def of_table(table: pd.DataFrame) -> LayerDistances:
    """The values of a table, with t as index and a column per layer, as they are."""
    names = tuple(map(str, table.columns))
    values = table.to_numpy(np.float64)
    values = np.where(np.abs(values) <= LARGEST, values, np.nan)
    if table.empty or np.isnan(values).all():
        raise InputError("the table of layers has no finite value")
    t = table.index.to_numpy(np.float64)
    return LayerDistances(names, ("other",) * len(names), t, values, "normalized_l2", None, "")


def read(path: Path, metric: str) -> LayerDistances:
    """Layer distances in our layout or the original one. Raises InputError where they cannot be drawn."""
    arrays = _load(path, metric)
    names, types = (_texts(path, name, arrays[name]) for name in ("layer_names", "layer_types"))
    t, values = (_numbers(path, name, arrays[name]) for name in ("t_values", metric))
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
    with npz(path) as file:
        arrays = {name: file[name] for name in (*required, *SWAP) if name in file}
    missing = next((name for name in required if name not in arrays), None)
    if missing is not None:
        metrics = [name for name in METRICS if name in file] if missing == metric else []
        found = ", ".join(metrics or sorted(file)[:12]) or "none"
        raise InputError(
            f"'{path}' has no array '{missing}'", f"its {'metrics' if metrics else 'arrays'}: {found}"
        )
    return arrays


def _numbers(path: Path, name: str, array: NDArray[Any]) -> NDArray[np.float64]:
    if array.dtype.kind not in "fiu":
        raise InputError(f"'{path}': {name} holds {array.dtype}, expected numbers")
    with np.errstate(over="ignore"):
        return array.astype(np.float64)


def _texts(path: Path, name: str, array: NDArray[Any]) -> tuple[str, ...]:
    if array.dtype.kind not in "US" or array.ndim != 1:
        raise InputError(
            f"'{path}': {name} is {array.dtype} of shape {array.shape}, expected a list of texts"
        )
    return tuple(item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in array)


def _swapped(path: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """The name of the swapped layer, empty where nothing was swapped.

    Our files name it. The original ones number it by block and layer and call their layers block<b>_conv<l>.
    """
    name, *numbers = SWAP
    if name in arrays:
        return "".join(_texts(path, name, arrays[name].reshape(-1)[:1]))
    if not arrays.keys() >= set(numbers):
        return ""
    block, layer = (_numbers(path, number, arrays[number]).reshape(-1) for number in numbers)
    if block.size != 1 or layer.size != 1 or not (block[0] >= 0 and layer[0] >= 0):
        return ""
    return f"block{block[0]:.0f}_conv{layer[0]:.0f}"
