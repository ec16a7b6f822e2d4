"""Where the samples of a batch are in a tensor: which axis, and in what order with what else lies on that axis.

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


class Unclear(Exception):
    """The samples cannot be told apart in a tensor, or an operation has no rule; says which."""


@dataclass(frozen=True)
class Layout:
    """Samples on one axis of size outer · N · inner, in this order."""

    axis: int
    outer: int = 1
    inner: int = 1

    def first(self, tensor: Tensor) -> Tensor:
        """The tensor with the samples on axis 0; what shared their axis stays in its place: [N, …]."""
        if self.axis == 0 and self.outer == self.inner == 1:
            return tensor
        size = tensor.shape[self.axis] // (self.outer * self.inner)
        split: Tensor = torch.unflatten(tensor, self.axis, (self.outer, size, self.inner)).movedim(
            self.axis + 1, 0
        )
        return split.flatten(self.axis + 1, self.axis + 2)

    @property
    def plain(self) -> bool:
        """Whether the axis holds the samples alone."""
        return self.outer == self.inner == 1


def of(node: fx.Node) -> Layout:
    """Where the samples are in what a node computes. Raises Unclear where that cannot be told."""
    return _of(node, {})


def _of(node: fx.Node, known: dict[fx.Node, Layout]) -> Layout:
    if node in known:
        return known[node]
    shape = _shape(node)
    axes = [axis for axis, size in enumerate(shape) if isinstance(size, torch.SymInt)]
    if len(axes) != 1:
        raise Unclear(f"{node.name}: samples on {len(axes)} axes")
    axis = axes[0]
    times = _times(shape[axis])
    known[node] = layout = Layout(axis) if times == 1 else _merged(node, axis, times, known)
    return layout


def _shape(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise Unclear(f"{node.name} is no tensor")
    return tuple(value.shape)


def _times(size: Any) -> int:
    """k of a size k · batch. Raises Unclear for any other expression of the batch."""
    times, rest = divmod(concrete(size), EXAMPLE_BATCH)
    expression = size.node.expr
    if rest or len(expression.free_symbols) != 1 or expression.diff(*expression.free_symbols) != times:
        raise Unclear(f"an axis of size {size}")
    return times


def _merged(node: fx.Node, axis: int, times: int, known: dict[fx.Node, Layout]) -> Layout:
    """The order on an axis that holds `times` entries of every sample."""
    if operation(node) in RESHAPES:
        source = node.all_input_nodes[0]
        before, shape = _of(source, known), _shape(source)
        leading = math.prod(shape[: before.axis]) * before.outer
        outer, rest = divmod(leading, math.prod(_shape(node)[:axis]))
        if not rest and outer and times % outer == 0:
            return Layout(axis, outer, times // outer)
    # All other operations keep the order along an axis, wherever that axis goes, if their sources agree on it.
    orders = {
        (before.outer, before.inner)
        for source in node.all_input_nodes
        if has_samples(source) and (before := _of(source, known))
    }
    if len(orders) == 1 and math.prod(order := next(iter(orders))) == times:
        return Layout(axis, *order)
    raise Unclear(f"{node.name}: in what order {times} entries of every sample lie")


def has_samples(node: fx.Node) -> bool:
    """Whether a node computes a tensor with an axis that the batch's size is in."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and any(isinstance(size, torch.SymInt) for size in value.shape)


def check_order(node: fx.Node) -> None:
    """Raises Unclear where an operation moves samples along their own axis."""
    name = operation(node)
    if name not in REORDERS or not node.args or not isinstance(node.args[0], fx.Node):
        return
    if not has_samples(node.args[0]):
        return
    axis, dims = of(node.args[0]).axis, len(_shape(node.args[0]))
    place = REORDERS[name]
    given = node.args[place] if len(node.args) > place else node.kwargs.get("dim", -1)
    if name in ("index", "index_put"):
        indices = given if isinstance(given, list | tuple) else [given]
        touched = len(indices) > axis and indices[axis] is not None
    else:
        along = given if isinstance(given, list | tuple) else [given]
        touched = not along or any(isinstance(k, int) and k % dims == axis for k in along)
    if touched:
        raise Unclear(f"{name} moves samples along their own axis")
