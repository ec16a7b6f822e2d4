"""On which axis of a tensor the samples of a batch lie, and in what order with what else lies there.

Attention and windows flatten samples with positions onto one axis: (positions, samples) in the one, (samples,
windows) in the other. Export gives sizes as expressions of the batch; the order follows from the reshapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from modeconn_cli.engine.networks.graph import EXAMPLE_BATCH, concrete, operation

# Operations that can change the order of the samples -> the argument that says along which axes.
REORDERS = {
    "flip": 1, "roll": 2, "index": 1, "index_put": 1, "index_select": 1, "gather": 1, "scatter": 1, "scatter_add": 1,
    "index_add": 1, "index_copy": 1, "sort": 1, "argsort": 1, "topk": 2, "repeat_interleave": 2, "cumsum": 1,
    "cumprod": 1, "logcumsumexp": 1,
}  # fmt: skip
RESHAPES = {"view", "reshape", "flatten", "unflatten", "_unsafe_view"}


class Inseparable(Exception):
    """The graph does not tell one sample from another, or not its gradient; says where."""


@dataclass(frozen=True)
class SampleAxis:
    """N samples on the axis `number`, which has outer · N · inner entries in this order."""

    number: int
    outer: int = 1
    inner: int = 1

    @property
    def plain(self) -> bool:
        """Whether the axis holds the samples alone."""
        return self.outer == self.inner == 1

    def first(self, tensor: Tensor) -> Tensor:
        """The tensor with the samples on axis 0; what shared their axis stays in its place: [N, …]."""
        if self.plain:
            return tensor.movedim(self.number, 0)
        split: Tensor = torch.unflatten(tensor, self.number, (self.outer, -1, self.inner))
        return split.movedim(self.number + 1, 0).flatten(self.number + 1, self.number + 2)


def of(node: fx.Node) -> SampleAxis:
    """Where the samples are in what a node computes. Raises Inseparable where that cannot be told."""
    if "sample_axis" not in node.meta:  # nodes are asked again by all that read them
        node.meta["sample_axis"] = _of(node)
    found: SampleAxis = node.meta["sample_axis"]
    return found


def _of(node: fx.Node) -> SampleAxis:
    shape = _shape(node)
    axes = [axis for axis, size in enumerate(shape) if isinstance(size, torch.SymInt)]
    if len(axes) != 1:
        raise Inseparable(f"{node.name}: samples on {len(axes)} axes")
    times = _times(shape[axes[0]])
    return SampleAxis(axes[0]) if times == 1 else _shared(node, axes[0], times)


def has_samples(node: fx.Node) -> bool:
    """Whether a node computes a tensor with an axis that the batch's size is in."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and any(isinstance(size, torch.SymInt) for size in value.shape)


def _shape(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise Inseparable(f"{node.name} is no tensor")
    return tuple(value.shape)


def _times(size: Any) -> int:
    """k of a size k · batch. Raises Inseparable for any other expression of the batch."""
    times, rest = divmod(concrete(size), EXAMPLE_BATCH)
    expression = size.node.expr
    if rest or len(expression.free_symbols) != 1 or expression.diff(*expression.free_symbols) != times:
        raise Inseparable(f"an axis of size {size}")
    return times


def _shared(node: fx.Node, axis: int, times: int) -> SampleAxis:
    """The order on an axis that holds `times` entries of every sample."""
    if operation(node) in RESHAPES:
        source = node.all_input_nodes[0]
        before, shape = of(source), _shape(source)
        leading = math.prod(shape[: before.number]) * before.outer
        outer, rest = divmod(leading, math.prod(_shape(node)[:axis]))
        if not rest and outer and times % outer == 0:
            return SampleAxis(axis, outer, times // outer)
    # All other operations keep the order along an axis, wherever that axis goes, if their sources agree on it.
    sources = [of(source) for source in node.all_input_nodes if has_samples(source)]
    orders = {(source.outer, source.inner) for source in sources}
    if len(orders) == 1 and math.prod(order := orders.pop()) == times:
        return SampleAxis(axis, *order)
    raise Inseparable(f"{node.name}: in what order {times} entries of every sample lie")


def check_order(node: fx.Node) -> None:
    """Raises Inseparable where an operation moves samples along their own axis."""
    place = REORDERS.get(operation(node))
    source = node.args[0] if node.args else None
    if place is None or not isinstance(source, fx.Node) or not has_samples(source):
        return
    axis = of(source).number
    said = node.args[place] if len(node.args) > place else node.kwargs.get("dim", -1)
    listed = said if isinstance(said, list | tuple) else [said]
    if operation(node) in ("index", "index_put"):
        touched = len(listed) > axis and listed[axis] is not None
    else:
        dims = len(_shape(source))
        touched = not listed or any(isinstance(k, int) and k % dims == axis for k in listed)
    if touched:
        raise Inseparable(f"{operation(node)} moves samples along their own axis")
