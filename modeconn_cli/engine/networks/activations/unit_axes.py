"""Along which axes the units (channels, features) of a tensor lie, followed from the layers through the graph.

Where units are split into heads they lie along several axes. Nothing is guessed: what mixes units with positions, or
adds up over them, leaves them unknown, until a layer makes new ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from torch import Tensor, fx

from modeconn_cli.engine.networks.activations.nonlinearities import POINTWISE
from modeconn_cli.engine.networks.graph import CONVOLUTIONS, TRANSPOSED, Graph, argument, operation, shape_of
from modeconn_cli.engine.networks.sample_axis import RESHAPES

Axes = tuple[int, ...]  # ascending; none: unknown

_CONVOLVES = {*CONVOLUTIONS, *TRANSPOSED, "convolution"}
_CHANNELS_SECOND = {
    "batch_norm", "instance_norm", "group_norm", "native_batch_norm", "cudnn_batch_norm",
}  # fmt: skip
_LAST = {"linear", "bilinear", "embedding", "gru", "lstm", "rnn_relu", "rnn_tanh"}
_RESHAPES = RESHAPES | {"squeeze", "unsqueeze"}
_REDUCES = {
    "all", "amax", "amin", "any", "argmax", "argmin", "linalg_vector_norm", "logsumexp", "max", "mean", "median", "min",
    "norm", "std", "sum", "var",
}  # fmt: skip
_PRODUCTS = {"matmul", "bmm", "mm", "baddbmm", "addmm"}
# Operations whose output has other axes than the input, or mixes its entries.
_MIXES = {
    "as_strided", "cdist", "corrcoef", "cov", "diag_embed", "diagonal", "dot", "ger", "inner", "kron", "mv", "outer",
    "tensordot", "trace",
}  # fmt: skip


def find(graph: Graph) -> dict[fx.Node, Axes]:
    """node -> axes, for every node where they are known; of several tensors, the axes of each."""
    return _Walk(graph).run()


class _Walk:
    def __init__(self, graph: Graph) -> None:
        self._graph, self._axes = graph, dict[fx.Node, Axes]()
        self._fixed = graph.made_of()

    def run(self) -> dict[fx.Node, Axes]:
        for node in self._graph.nodes:
            shape = shape_of(_one(node))
            if shape is None or node in self._fixed:
                continue
            if node.op == "placeholder":
                axes = (1,) if len(shape) in (2, 4, 5) else taken_as(node)  # features, or an image's channels
            else:
                axes = self._of(node, shape)
            axes = tuple(sorted({axis for axis in axes if 0 <= axis < len(shape)}))
            if axes:
                self._axes[node] = axes
        return self._axes

    def _of(self, node: fx.Node, shape: Sequence[int]) -> Axes:
        name, last = operation(node), len(shape) - 1
        known = [source for source in node.all_input_nodes if source in self._axes]
        if name in _CONVOLVES:
            return self._convolved(node)
        if name in _LAST:
            return (last,)
        if name in _PRODUCTS or name == "scaled_dot_product_attention":
            return self._product(node, shape)
        if name == "einsum":
            return self._einsum(node)
        if name in _CHANNELS_SECOND or (name in ("layer_norm", "rms_norm") and not known):
            own = (1,) if name in _CHANNELS_SECOND else (last,)
            return self._axes[known[0]] if known and len(self._shape(known[0])) == len(shape) else own
        if not known or name in _MIXES or name.startswith(("linalg_inv", "linalg_matrix", "fft_")):
            return ()
        return self._agreed(node, known, shape)

    def _agreed(self, node: fx.Node, known: Sequence[fx.Node], shape: Sequence[int]) -> Axes:
        """Where all sources with units have them; a source with one entry along them has nothing to say."""
        found = {_carried(node, self._shape(source), shape, self._axes[source]) for source in known}
        if len(found) > 1:
            telling = [s for s in known if math.prod(self._shape(s)[axis] for axis in self._axes[s]) > 1]
            found = {_carried(node, self._shape(source), shape, self._axes[source]) for source in telling}
        return found.pop() if len(found) == 1 else ()

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        return shape_of(_one(node)) or ()

    def _convolved(self, node: fx.Node) -> Axes:
        """Its channels; a filter with one channel in and out, which runs along the units, has none of its own."""
        data, weight = (cast("fx.Node", argument) for argument in node.args[:2])
        if self._shape(weight)[:2] == (1, 1) and self._axes.get(data, (1,))[0] > 1:
            return self._axes[data]
        return (1,)

    def _product(self, node: fx.Node, shape: Sequence[int]) -> Axes:
        """Of a matrix product: the units that are not summed over, else those that a matrix of parameters makes."""
        if operation(node) == "scaled_dot_product_attention":
            return self._axes.get(cast("fx.Node", node.args[2]), ())
        sides = [cast("fx.Node", argument) for argument in node.args[-2:]]
        if any(len(self._shape(side)) < 2 for side in sides):
            return ()

        def moved(side: fx.Node, axes: Iterable[int]) -> Axes:
            return tuple(axis + len(shape) - len(self._shape(side)) for axis in axes)

        found = set[Axes]()
        for side, summed in zip(sides, (-1, -2), strict=True):
            axes = self._axes.get(side, ())
            if len(self._shape(side)) + summed not in axes:
                found.add(moved(side, axes))
        if found - {()}:
            return found.pop() if len(found := found - {()}) == 1 else ()
        for side, own in zip(sides, (-2, -1), strict=True):
            if side in self._fixed:  # several matrices make units each
                sizes = self._shape(side)
                return moved(side, [k for k in range(len(sizes) - 2) if sizes[k] > 1] + [len(sizes) + own])
        return ()

    def _einsum(self, node: fx.Node) -> Axes:
        """The letters of the units that are not summed over, else those that parameters bring in."""
        said, operands = cast("str", node.args[0]).replace(" ", ""), cast("list[fx.Node]", node.args[1])
        before, arrow, after = said.partition("->")
        letters = dict(zip(operands, before.split(","), strict=False))
        if not arrow or "." in said or len(letters) != len(operands):
            return ()
        found = set[Axes]()
        for operand, of in letters.items():
            units = [of[axis] for axis in self._axes.get(operand, ())]
            if units and all(letter in after for letter in units):
                found.add(tuple(sorted(after.index(letter) for letter in units)))
        if found:
            return found.pop() if len(found) == 1 else ()
        data, own = (
            {letter for operand, of in letters.items() if (operand in self._fixed) is fixed for letter in of}
            for fixed in (False, True)
        )
        made = (own - data) & set(after)
        return tuple(k for k, letter in enumerate(after) if letter in own) if made else ()


def taken_as(node: fx.Node) -> Axes:
    """The axis that the layer behind takes for its channels or features; only pointwise steps may lie between."""
    shape = shape_of(node.meta.get("val")) or ()
    for user in node.users:
        name = operation(user)
        if name in _LAST and user.args[0] is node:
            return (len(shape) - 1,)
        if name in _CHANNELS_SECOND or (name in _CONVOLVES and user.args[0] is node):
            return (1,)
        if name in POINTWISE and shape_of(user.meta.get("val")) == shape and (found := taken_as(user)):
            return found
    return ()


def _one(node: fx.Node) -> object:
    """What a node computes; of several tensors of as many axes, the first."""
    value = node.meta.get("val")
    if not isinstance(value, tuple | list):
        return value
    tensors = [each for each in value if isinstance(each, Tensor)]
    return tensors[0] if tensors and len({each.ndim for each in tensors}) == 1 else None


def _carried(node: fx.Node, before: Sequence[int], shape: Sequence[int], axes: Axes) -> Axes:
    """Where an operation leaves the units of one of its sources."""
    name = operation(node)
    if name in _MOVES:
        return _MOVES[name](node, before, axes)
    if name in _RESHAPES:
        return _reshaped(before, shape, axes)
    if name in _REDUCES and len(shape) < len(before):
        return _without(before, axes, _reduced(node, len(before)))
    if name == "stack":
        at = int(argument(node, 1, "dim", 0)) % len(shape)
        return tuple(axis + (axis >= at) for axis in axes)
    if len(shape) >= len(before):  # broadcast from the right; copies, pieces and pools keep their axes
        return tuple(axis + len(shape) - len(before) for axis in axes)
    return ()


def _permuted(node: fx.Node, before: Sequence[int], axes: Axes) -> Axes:
    order = [k % len(before) for k in cast("list[int]", node.args[1])]
    return tuple(order.index(axis) for axis in axes)


def _swapped(node: fx.Node, before: Sequence[int], axes: Axes) -> Axes:
    pair = [cast("int", k) % len(before) for k in node.args[1:3]] or [0, len(before) - 1]
    return tuple(pair[1 - pair.index(axis)] if axis in pair else axis for axis in axes)


def _moved(node: fx.Node, before: Sequence[int], axes: Axes) -> Axes:
    sources, targets = (
        [k % len(before) for k in (each if isinstance(each, list | tuple) else [cast("int", each)])]
        for each in cast("list[Any]", node.args[1:3])
    )
    order = [k for k in range(len(before)) if k not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source)
    return tuple(order.index(axis) for axis in axes)


def _selected(node: fx.Node, before: Sequence[int], axes: Axes) -> Axes:
    return _without(before, axes, {int(argument(node, 1, "dim", 0)) % len(before)})


def _indexed(node: fx.Node, before: Sequence[int], axes: Axes) -> Axes:
    """One axis may be indexed, by a tensor of any number of axes, which take its place."""
    at = [k for k, index in enumerate(cast("list[Any]", node.args[1])) if index is not None]
    more = len(shape_of(node.meta["val"]) or ()) - len(before)
    if more and (len(at) != 1 or at[0] in axes):
        return ()
    return tuple(axis + more * (axis > at[0]) for axis in axes)


def _unfolded(node: fx.Node, before: Sequence[int], axes: Axes) -> Axes:
    """Windows along one axis, whose entries lie along a new one at the end."""
    return () if int(argument(node, 1, "dimension", 0)) % len(before) in axes else axes


def _taken(node: fx.Node, before: Sequence[int], axes: Axes) -> Axes:
    """A tensor out of several keeps its axes, which are those of each."""
    del node, before
    return axes


_MOVES: dict[str, Callable[[fx.Node, Sequence[int], Axes], Axes]] = {
    "permute": _permuted,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT"), _swapped),
    **dict.fromkeys(("movedim", "moveaxis"), _moved),
    **dict.fromkeys(("select", "unbind"), _selected),
    "getitem": _taken,
    "index": _indexed,
    "unfold": _unfolded,
}


def _without(before: Sequence[int], axes: Axes, gone: set[int]) -> Axes:
    """The axes that are left when some are taken away; none where units lay along others that are gone."""
    if any(axis in gone and before[axis] > 1 for axis in axes) and all(axis in gone for axis in axes):
        return ()
    return tuple(axis - sum(k < axis for k in gone) for axis in axes if axis not in gone)


def _reduced(node: fx.Node, dims: int) -> set[int]:
    said = argument(node, 1, "dim", None)
    if said is None or said == []:
        return set(range(dims))
    return {cast("int", k) % dims for k in (said if isinstance(said, list | tuple) else [said])}


def _reshaped(before: Sequence[int], after: Sequence[int], axes: Axes) -> Axes:
    """The axes that hold the same entries: of a group of axes that a reshape makes into others, all or none.

    An axis into which units are merged with positions holds a unit each of its entries.
    """
    if all(before[axis] == 1 for axis in axes):
        return tuple(axis for axis, size in enumerate(after) if size == 1)[:1]
    found: list[int] = []
    for old, new in _groups(before, after):
        units = [axis for axis in old if axis in axes]
        if units and len(units) < len(old) and len(new) > 1:
            return ()  # units and positions are cut up together
        found += new if units else []
    return tuple(found)


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes of both shapes with as many entries; axes of one entry are in none."""
    old, new = ([axis for axis, size in enumerate(shape) if size != 1] for shape in (before, after))
    out, i, j = list[tuple[list[int], list[int]]](), 0, 0
    while i < len(old) and j < len(new):
        starts, first, second = (i, j), before[old[i]], after[new[j]]
        i, j = i + 1, j + 1
        while first != second and i < len(old) and first < second:
            first, i = first * before[old[i]], i + 1
            while second < first and j < len(new):
                second, j = second * after[new[j]], j + 1
        while second < first and j < len(new):
            second, j = second * after[new[j]], j + 1
        out.append((old[starts[0] : i], new[starts[1] : j]))
    return out
