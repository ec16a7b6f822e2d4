"""Along which axis the units (channels, features) of a tensor lie, followed from the layers through the graph."""

from __future__ import annotations

import math
from typing import Any, cast

from torch import fx

from modeconn_cli.engine.networks.graph import CONVOLUTIONS, TRANSPOSED, Graph, operation, shape_of
from modeconn_cli.engine.networks.sample_axis import RESHAPES

_CHANNELS_SECOND = {
    *CONVOLUTIONS, *TRANSPOSED, "convolution", "batch_norm", "instance_norm", "group_norm", "native_batch_norm",
    "cudnn_batch_norm",
}  # fmt: skip
_LAST = {"linear", "bilinear", "embedding"}
_RESHAPES = RESHAPES | {"squeeze", "unsqueeze"}
_REDUCES = {"mean", "sum", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "logsumexp"}


def find(graph: Graph) -> dict[fx.Node, int]:
    """node -> axis, for every node where it is known."""
    axes: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op != "call_function" or (shape := shape_of(node.meta.get("val"))) is None:
            continue
        axis = _axis(node, shape, axes)
        if axis is not None and 0 <= axis < len(shape):
            axes[node] = axis
    return axes


def guess(node: fx.Node) -> int:
    """Where nothing is known: what the next layer takes for its channels, else the usual place."""
    dims = len(shape_of(node.meta["val"]) or ())
    for user in node.users:
        if operation(user) in _CHANNELS_SECOND:
            return 1
        if operation(user) in _LAST:
            return dims - 1
    return dims - 1 if dims == 3 else 1


def _axis(node: fx.Node, shape: tuple[int, ...], axes: dict[fx.Node, int]) -> int | None:
    name = operation(node)
    if name in _CHANNELS_SECOND:
        return 1
    if name in _LAST:
        return len(shape) - 1
    if name in ("layer_norm", "rms_norm") and len(cast("Any", node.args[1])) == 1:
        return len(shape) - 1
    sources = [source for source in node.all_input_nodes if source in axes]
    if not sources:
        return None
    source = sources[0]
    before, axis = shape_of(source.meta["val"]) or (), axes[source]
    if name == "permute":
        return [k % len(before) for k in cast("list[int]", node.args[1])].index(axis)
    if name in ("transpose", "swapaxes", "t"):
        return _swapped(node, axis, len(before))
    if name == "select":
        gone = cast("int", node.args[1]) % len(before)
        return None if gone == axis else axis - (gone < axis)
    if name in _RESHAPES:
        return _reshaped(before, shape, axis)
    if name in _REDUCES and len(shape) < len(before):
        return _reduced(node, axis, len(before))
    if name in ("matmul", "bmm", "mm", "scaled_dot_product_attention"):
        return None
    if len(shape) >= len(before):  # broadcast from the right; copies, pieces and pools keep their axes
        return axis + len(shape) - len(before)
    return None


def _swapped(node: fx.Node, axis: int, dims: int) -> int:
    pair = [cast("int", k) % dims for k in node.args[1:3]] or [0, 1]
    return pair[1 - pair.index(axis)] if axis in pair else axis


def _reshaped(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The axis that holds the same entries, else the one into which they were merged, None where they were split."""
    inner = math.prod(before[axis + 1 :])
    for k in range(len(after) - 1, -1, -1):
        behind = math.prod(after[k + 1 :])
        if after[k] == before[axis] and behind == inner:
            return k
        if behind <= inner and after[k] * behind >= before[axis] * inner and after[k] > before[axis]:
            return k
    return None


def _reduced(node: fx.Node, axis: int, dims: int) -> int | None:
    reduced = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if reduced is None:
        return None
    gone = {cast("int", k) % dims for k in (reduced if isinstance(reduced, list | tuple) else [reduced])}
    return None if axis in gone else axis - sum(k < axis for k in gone)
