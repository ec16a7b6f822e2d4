"""On which axis of a tensor the samples of a batch lie, and in what order with what else lies there.

Attention and windows flatten samples with positions onto one axis: (positions, samples) in the one, (samples,
windows) in the other; views of an image are joined along it. Export gives sizes as expressions of the batch; the order
follows from the reshapes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from modeconn_cli.engine.networks.flat import is_opaque
from modeconn_cli.engine.networks.graph import EXAMPLE_BATCH, Graph, argument, concrete, location, operation

# Operations that can change the order of the samples -> the argument that says along which axes.
REORDERS = {
    "flip": 1, "roll": 2, "index": 1, "index_put": 1, "index_select": 1, "gather": 1, "scatter": 1, "scatter_add": 1,
    "index_add": 1, "index_copy": 1, "sort": 1, "argsort": 1, "topk": 2, "repeat_interleave": 2, "cumsum": 1,
    "cumprod": 1, "logcumsumexp": 1,
}  # fmt: skip
# Operations that take pieces of an axis -> the argument that says of which.
PIECES = {
    "chunk": 2, "narrow": 1, "slice": 1, "split": 2, "split_with_sizes": 2, "tensor_split": 2, "unsafe_chunk": 2,
    "unsafe_split": 2,
}  # fmt: skip
RESHAPES = {"view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "_unsafe_view"}


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


def follow(graph: Graph) -> None:
    """Find where the samples are in all that depends on the input; `of` tells it then.

    What moves samples along their own axis, or mixes them up with what lies beside them, loses them for all that is
    made of it. Raises Inseparable for a graph with an operation that nobody looks into.
    """
    data, lost = set[fx.Node](), dict[fx.Node, str]()
    for node in graph.nodes:
        if is_opaque(node):
            raise Inseparable(f"{operation(node)} is not looked into ({location(node)})")
        fed = [source for source in node.all_input_nodes if source in data]
        made = isinstance(node.meta.get("val"), Tensor | tuple | list)  # no size
        if made and (fed or (node.op == "placeholder" and has_samples(node))):
            data.add(node)
        reason = next((lost[source] for source in fed if source in lost), "")
        try:
            if not reason and has_samples(node):
                node.meta["sample_axis"] = _of(node, fed)
        except Inseparable as error:
            reason = str(error)
        if reason and node.op == "call_function":
            node.meta["sample_axis"] = lost[node] = reason


def of(node: fx.Node) -> SampleAxis:
    """Where the samples are in what a node of a followed graph computes. Raises Inseparable where they are lost."""
    found = node.meta.get("sample_axis", f"{node.name}: samples on no axis")
    if isinstance(found, SampleAxis):
        return found
    raise Inseparable(found)


def _of(node: fx.Node, fed: Sequence[fx.Node]) -> SampleAxis:
    """`fed`: the sources that depend on the input."""
    shape = _shape(node)
    axes = [axis for axis, size in enumerate(shape) if isinstance(size, torch.SymInt)]
    if len(axes) != 1:
        raise Inseparable(f"{node.name}: samples on {len(axes)} axes")
    (axis,), times = axes, _times(shape[axes[0]])
    if not fed:  # the same for all samples
        return SampleAxis(axis, 1, times)
    maker = node if node.target is not operator.getitem else fed[0]
    _check_order(maker)
    if operation(node) in RESHAPES:
        return _reshaped(node, axis, times)
    order = _cut(node, maker, times) or _multiplied(maker, times)
    if order is not None:
        return SampleAxis(axis, *order)
    # All other operations keep the order along an axis, wherever that axis goes, if their sources agree on it.
    sources = maker.all_input_nodes if maker is not node else fed
    orders = {(of(source).outer, of(source).inner) for source in sources if has_samples(source)}
    outer, inner = orders.pop() if len(orders) == 1 else (0, 0)
    if outer * inner == times:
        return SampleAxis(axis, outer, inner)
    raise Inseparable(f"{node.name}: in what order {times} entries of every sample lie")


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


def _reshaped(node: fx.Node, axis: int, times: int) -> SampleAxis:
    """The order on an axis into which a reshape puts `times` entries of every sample."""
    source = node.all_input_nodes[0]
    before = of(source)
    leading = math.prod(_shape(source)[: before.number]) * before.outer
    outer, rest = divmod(leading, math.prod(_shape(node)[:axis]))
    if rest or not outer or times % outer:
        raise Inseparable(f"{node.name} mixes samples with what lies beside them")
    return SampleAxis(axis, outer, times // outer)


def _along(maker: fx.Node, place: int, default: int = 0) -> SampleAxis | None:
    """The samples' axis in an operation's first tensor, where it works along that axis."""
    first = maker.args[0][0] if isinstance(maker.args[0], list | tuple) else maker.args[0]
    if not isinstance(first, fx.Node) or not has_samples(first):
        return None
    found = of(first)
    said = argument(maker, place, "dim", default)
    return found if said == found.number or said == found.number - len(_shape(first)) else None


def _cut(node: fx.Node, maker: fx.Node, times: int) -> tuple[int, int] | None:
    """The order in a piece of the samples' axis, which must hold all samples; None where that axis is not cut."""
    place = PIECES.get(operation(maker))
    source = None if place is None else _along(maker, place)
    if source is None:
        return None
    if maker is node:  # one piece, from a start on
        offset = _number(argument(maker, 2, "start", None), 0)
        step = _number(argument(maker, 4, "step", None), 1)
    else:
        pieces = maker.meta["val"][: cast("int", node.args[1])]
        offset, step = sum(concrete(piece.shape[source.number]) for piece in pieces), 1
    if step != 1 or offset % (EXAMPLE_BATCH * source.inner) or times % source.inner:
        raise Inseparable(f"{node.name} takes some samples out of a batch")
    return times // source.inner, source.inner


def _number(said: Any, default: int) -> int:
    """An argument that is a number, or a node that computes one."""
    value = said.meta["val"] if isinstance(said, fx.Node) else said
    return default if value is None else concrete(value)


def _multiplied(maker: fx.Node, times: int) -> tuple[int, int] | None:
    """The order where whole batches come one after the other, or every sample several times; else None."""
    name = operation(maker)
    if name in ("cat", "concat", "concatenate") and (source := _along(maker, 1)):
        parts = [part for part in cast("list[fx.Node]", maker.args[0]) if has_samples(part)]
        inner = {of(part).inner for part in parts}
        if len(inner) > 1 or len(parts) < len(cast("list[fx.Node]", maker.args[0])):
            raise Inseparable(f"{maker.name}: in what order {times} entries of every sample lie")
        return times // source.inner, source.inner
    first = maker.args[0] if maker.args else None
    if name == "repeat" and isinstance(first, fx.Node) and has_samples(first):
        return times // of(first).inner, of(first).inner
    if name == "repeat_interleave" and isinstance(first, fx.Node) and has_samples(first):
        return of(first).outer, times // of(first).outer
    return None


def _check_order(node: fx.Node) -> None:
    """Raises Inseparable where an operation moves samples along their own axis."""
    place = REORDERS.get(operation(node))
    source = node.args[0] if node.args else None
    if place is None or not isinstance(source, fx.Node) or not has_samples(source):
        return
    if operation(node) == "repeat_interleave" and isinstance(node.args[1], int) and len(node.args) > 2:
        return  # every entry as often
    axis = of(source).number
    usual = None if operation(node) == "repeat_interleave" else -1
    said = argument(node, place, "dim", usual)
    listed = said if isinstance(said, list | tuple) else [said]
    if operation(node) in ("index", "index_put"):
        touched = len(listed) > axis and listed[axis] is not None
    else:
        dims = len(_shape(source))
        touched = not listed or any(k is None or (isinstance(k, int) and k % dims == axis) for k in listed)
    if touched:
        raise Inseparable(f"{operation(node)} moves samples along their own axis")
