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

from modeconn_cli.engine.graph import EXAMPLE_BATCH, concrete, operation

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
    for source in node.all_input_nodes:
        try:
            before, shape = _of(source, known), _shape(source)
        except Unclear:
            continue
        if operation(node) in RESHAPES:
            leading = math.prod(shape[: before.axis]) * before.outer
            outer, rest = divmod(leading, math.prod(_shape(node)[:axis]))
            if not rest and times % outer == 0:
                return Layout(axis, outer, times // outer)
        elif before.outer * before.inner == times:
            # All other operations keep the order along an axis, wherever that axis goes.
            return Layout(axis, before.outer, before.inner)
    raise Unclear(f"{node.name}: in what order {times} entries of every sample lie")
