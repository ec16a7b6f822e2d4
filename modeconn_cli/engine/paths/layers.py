"""Layer distances along a path: quadratic forms of one Gram matrix per module; no network is built per t.

Shapes: T positions, L modules, K control points. Raw distances are ‖w(t) − w(0)‖ over a module's parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.paths.path import Kind, coefficients

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LayerDistances:
    """All arrays [T, L] but `names`, `types`, `sizes` [L] and `ts` [T].

    `modulo_swap`: the smaller of the distances to endpoint 0 and to endpoint 0 with its units swapped (None
    without a swap). `from_line`: distance to the straight segment between the ends. `norm_difference`:
    |‖w_t‖ − ‖w_0‖|, blind to everything that keeps the norm.
    """

    names: list[str]
    types: list[str]
    sizes: npt.NDArray[np.int64]
    ts: Array
    raw: Array
    normalized: Array
    relative: Array
    from_line: Array
    norm_difference: Array
    modulo_swap: Array | None


def layer_distances(
    kind: Kind,
    points: Sequence[Mapping[str, Tensor]],
    ts: Array,
    swapped: Mapping[str, Tensor] | None = None,
) -> LayerDistances:
    """Measure every module of a path. `swapped` is endpoint 0 with the swap applied."""
    groups = weights.modules(points[0])
    c = np.stack([coefficients(kind, len(points), t) for t in ts])[:, 1:]
    columns = [_module(points, names, c, swapped) for names in groups.values()]
    sizes = np.array([sum(points[0][n].numel() for n in names) for names in groups.values()], dtype=np.int64)
    stack = {key: np.stack([column[key] for column in columns], axis=1) for key in columns[0]}
    modulo_swap = stack.pop("modulo_swap", None)
    return LayerDistances(
        names=list(groups),
        types=[layer_type(points[0], names) for names in groups.values()],
        sizes=sizes,
        ts=ts,
        normalized=stack["raw"] / np.sqrt(sizes),
        modulo_swap=modulo_swap,
        **stack,
    )


def _module(
    points: Sequence[Mapping[str, Tensor]],
    names: Sequence[str],
    c: Array,
    swapped: Mapping[str, Tensor] | None,
) -> dict[str, Array]:
    """The figures of one module along the path, each [T]; `c` holds c_1 … c_{K−1}, [T, K − 1]."""
    moved = swapped is not None and any(swapped[n] is not points[0][n] for n in names)
    others = [*points[1:], swapped] if moved and swapped is not None else list(points[1:])
    size = len(others) + 1
    total = np.zeros((size, size))
    for name in names:
        total += weights.gram([other[name] for other in others], points[0][name]).numpy()
    free = c.shape[1]
    inner, cross, norm = total[:free, :free], total[:free, -1], total[-1, -1]
    square = np.maximum(np.einsum("ti,ij,tj->t", c, inner, c), 0.0)
    norms = np.sqrt(np.maximum(norm + 2 * c @ cross + square, 0.0))
    raw = np.sqrt(square)
    out = {
        "raw": raw,
        "relative": raw / np.sqrt(norm) if norm > 0 else np.full_like(raw, np.nan),
        "norm_difference": np.abs(norms - np.sqrt(norm)),
        "from_line": _from_segment(square, c @ inner[:, -1], inner[-1, -1]),
    }
    if swapped is not None:
        to_swapped = raw
        if moved:
            s = float(total[free, free])
            to_swapped = np.sqrt(np.maximum(square - 2 * c @ total[:free, free] + s, 0.0))
            # A point that is the swapped network itself differs by rounding of the form only.
            to_swapped[to_swapped < 1e-7 * np.sqrt(s)] = 0.0
        out["modulo_swap"] = np.minimum(raw, to_swapped)
    return out


def _from_segment(square: Array, inner: Array, length: float) -> Array:
    """Distance of w_t to {w_0 + s (w_1 − w_0), 0 ≤ s ≤ 1}, from ‖d‖², ⟨d, n⟩ and ‖n‖², n = w_1 − w_0."""
    if length <= 0:
        return np.sqrt(square)
    s = np.clip(inner / length, 0.0, 1.0)
    rest = square - 2 * s * inner + s**2 * length
    rest[rest < 1e-14 * length] = 0.0  # rounding of the quadratic form
    return np.sqrt(np.maximum(rest, 0.0))


def layer_type(state: Mapping[str, Tensor], names: Sequence[str]) -> str:
    """conv, fc, norm or other, by the shapes of a module's parameters."""
    dims = max(state[name].ndim for name in names)
    if dims >= 3 and any(name.endswith("weight") and state[name].ndim >= 3 for name in names):
        return "conv"
    if dims == 2:
        return "fc"
    return "norm" if any(name.endswith("weight") for name in names) else "other"
