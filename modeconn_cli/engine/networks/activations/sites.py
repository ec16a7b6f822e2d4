"""Where a network's units are looked at: the outputs of its layers, as documented, and of its nonlinearities."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, fx

from modeconn_cli.engine.networks import sample_axis
from modeconn_cli.engine.networks.activations import nonlinearities, unit_axes
from modeconn_cli.engine.networks.activations.nonlinearities import Nonlinearity
from modeconn_cli.engine.networks.activations.unit_axes import Axes
from modeconn_cli.engine.networks.graph import CONVOLUTIONS, TRANSPOSED, Graph, module_of, operation, shape_of
from modeconn_cli.engine.networks.sample_axis import Inseparable, SampleAxis

Kind = Literal["pre", "post"]

LAYERS = {*CONVOLUTIONS, *TRANSPOSED, "convolution", "linear", "bilinear"}
ATTENTION = "MultiheadAttention"


# Operations whose parameters make a layer; a scale or a shift of logits does not.
_MEETS = LAYERS | {
    "addmm", "baddbmm", "batch_norm", "bmm", "dot", "einsum", "embedding", "group_norm", "gru", "instance_norm",
    "layer_norm", "lstm", "matmul", "mm", "mv", "rms_norm", "rnn_relu", "rnn_tanh",
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """The units of one call of a layer or a nonlinearity, as tables name it.

    `behind` is the layer whose output a nonlinearity takes, as figures name it; empty where there is none.
    `positions` values belong to a unit and a sample. `zero`: the nonlinearity has a zero region, so that frequencies
    mean something.
    """

    kind: Kind
    name: str
    operation: str
    units: int
    positions: int
    zero: bool
    behind: str = ""


@dataclass(frozen=True)
class Site:
    """Where a layer's units are in the graph: along the axes `unit_axes` of what the node computes.

    A unit is dormant where none of its values exceeds ε, for `absolute` sites in absolute value.
    """

    layer: Layer
    node: fx.Node
    samples: SampleAxis
    unit_axes: Axes
    absolute: bool

    def by_sample(self, value: Tensor, reduced: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Tensor:
        """`reduced` over all axes of `value` but samples and units, [N, units]."""
        value, _, others = self._aligned(value)
        return (reduced(value, others) if others else value).flatten(1)

    def features(self, value: Tensor) -> Tensor:
        """All of `value`, [N, units, positions]."""
        value, units, others = self._aligned(value)
        moved = value.permute(0, *units, *others)
        return moved.reshape(len(moved), self.layer.units, -1)

    def _aligned(self, value: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
        """`value` with the samples first, its axes of units, and those of positions."""
        shared, number = not self.samples.plain, self.samples.number
        value = self.samples.first(value)  # what shared an axis with the samples stays in its place
        units = tuple(axis + (shared or axis < number) for axis in self.unit_axes)
        return value, units, tuple(axis for axis in range(1, value.ndim) if axis not in units)


def find(graph: Graph) -> tuple[list[Site], list[str]]:
    """All sites in execution order, and what the user should know of those that were left out or come twice.

    Nothing behind the last parameter is a hidden unit: a nonlinearity there belongs to the output layer. Raises
    Inseparable where the samples cannot be told apart at any layer.
    """
    sample_axis.follow(graph)
    axes, hidden = unit_axes.find(graph), _before_parameters(graph)
    nonlinear, suspects = nonlinearities.find(graph)
    calls, left, sites = Counter[tuple[Kind, str]](), dict[str, list[str]](), list[Site]()
    lost = ""
    for node in graph.nodes:
        known = nonlinear.get(node) if node in hidden else None
        kind, absolute, zero = _looked_at(node, known)
        if kind is None:
            if node in suspects and node in hidden and sample_axis.has_samples(node):
                left.setdefault(_UNKNOWN, []).append(_name(node, "post", graph))
            continue
        name = _name(node, kind, graph)
        calls[kind, name] += 1
        called = f"{name}#{calls[kind, name]}" if calls[kind, name] > 1 else name
        try:
            own = _own_axis(node) if kind == "pre" else axes.get(node) or unit_axes.taken_as(node)
            behind = _behind(node, graph) if kind == "post" else ""
            sites.append(_site(node, own, kind, called, absolute, zero, behind))
        except _Left as reason:
            left.setdefault(str(reason), []).append(called)
        except Inseparable as error:
            lost = lost or str(error)
            left.setdefault(_MIXED, []).append(called)
    if lost and not any(site.layer.kind == "pre" for site in sites):
        raise Inseparable(lost)
    seen = Counter((site.layer.kind, site.layer.name.partition("#")[0]) for site in sites)
    notes = {"called more than once, and counted once per call": [n for (_, n), k in seen.items() if k > 1]}
    notes |= {text: list(dict.fromkeys(names)) for text, names in left.items()}
    return sites, [f"{text}: {_listed(found)}" for text, found in notes.items() if found]


_APART = "left out, as they see no samples"
_MIXED = "left out, as their samples cannot be told apart"
_NOWHERE = "left out, as it is not known along which axis their units lie"
_UNKNOWN = "not looked at, though they may act as nonlinearities"


class _Left(Exception):
    """Why a site is left out."""


def _listed(found: list[str]) -> str:
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _own_axis(node: fx.Node) -> Axes:
    """Along which axis a layer makes its units."""
    dims = len(shape_of(node.meta["val"]) or ())
    return (dims - 1,) if operation(node) in ("linear", "bilinear") else (1,)


def _site(node: fx.Node, axes: Axes, kind: Kind, name: str, absolute: bool, zero: bool, behind: str) -> Site:
    if not sample_axis.has_samples(node):
        raise _Left(_APART)
    shape, samples = shape_of(node.meta["val"]), sample_axis.of(node)
    assert shape is not None
    if not axes or samples.number in axes:
        raise _Left(_NOWHERE)
    count = shape[samples.number] // (samples.outer * samples.inner)
    units = math.prod(shape[axis] for axis in axes)
    layer = Layer(kind, name, operation(node), units, math.prod(shape) // (count * units), zero, behind)
    return Site(layer, node, samples, axes, absolute)


def _looked_at(node: fx.Node, known: Nonlinearity | None) -> tuple[Kind | None, bool, bool]:
    """Which kind of site a node is, whether absolute values count there, and whether frequencies mean something."""
    if node.op == "call_function" and operation(node) in LAYERS:
        inside = _in_attention(node)
        return (None if inside and not _leaves_attention(node) else "pre"), inside, False
    return (None, False, False) if known is None else ("post", known.signed, known.zero)


def _name(node: fx.Node, kind: Kind, graph: Graph) -> str:
    """The module that an operation is; else the parameter's of a layer, else the module around it and the operation."""
    path, of = module_of(node)
    weight = node.args[1] if len(node.args) > 1 else None
    if (
        kind == "pre"
        and not _in_attention(node)
        and isinstance(weight, fx.Node)
        and weight.name in graph.tensors
    ):
        return graph.tensors[weight.name].rpartition(".")[0] or operation(node)
    if path and of.rpartition(".")[0] == "torch.nn.modules.activation":
        return path
    return ".".join(filter(None, (path, operation(node))))


def _behind(node: fx.Node, graph: Graph) -> str:
    """The nearest layer before a nonlinearity; of a sum's branches the first, which in a residual block is its own."""
    seen, todo = {node}, list(node.all_input_nodes)
    for source in todo:  # grows while it is gone through, the nearest first
        if operation(source) in LAYERS and sample_axis.has_samples(source):
            return _name(source, "pre", graph)
        new = [each for each in source.all_input_nodes if each not in seen]
        seen.update(new)
        todo += new
    return ""


def _in_attention(node: fx.Node) -> bool:
    return module_of(node)[1].endswith(ATTENTION)


def _leaves_attention(node: fx.Node) -> bool:
    """Whether a layer inside an attention module is its last: no other layer of the same module follows."""
    module, seen, todo = module_of(node), set[fx.Node](), list(node.users)
    while todo:
        user = todo.pop()
        if user in seen or user.op != "call_function" or module_of(user) != module:
            continue
        if operation(user) in LAYERS:
            return False
        seen.add(user)
        todo += user.users
    return True


def _before_parameters(graph: Graph) -> set[fx.Node]:
    """Nodes behind which the data still meets a parameter."""
    made_of = graph.made_of()
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for user in node.users:
            meets = operation(user) in _MEETS and any(made_of.get(a) for a in user.all_input_nodes)
            if node not in made_of and (meets or user in found):
                found.add(node)
    return found
