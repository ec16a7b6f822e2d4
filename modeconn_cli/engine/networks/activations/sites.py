"""Where a network's units are looked at: the outputs of its layers, as documented, and of its nonlinearities."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, fx

from modeconn_cli.engine.networks import sample_axis
from modeconn_cli.engine.networks.activations import unit_axes
from modeconn_cli.engine.networks.graph import CONVOLUTIONS, TRANSPOSED, Graph, module_of, operation, shape_of
from modeconn_cli.engine.networks.sample_axis import Inseparable, SampleAxis

Kind = Literal["pre", "post"]

LAYERS = {*CONVOLUTIONS, *TRANSPOSED, "convolution", "linear", "bilinear"}
ATTENTION = "MultiheadAttention"


@dataclass(frozen=True)
class Nonlinearity:
    """`signed`: values below zero occur; `zero`: a whole region of inputs gives zero."""

    signed: bool
    zero: bool


_PLAIN: dict[str, Nonlinearity] = {
    **dict.fromkeys(("relu", "relu6", "hardsigmoid"), Nonlinearity(signed=False, zero=True)),
    **dict.fromkeys(("hardswish", "hardshrink", "softshrink"), Nonlinearity(signed=True, zero=True)),
    **dict.fromkeys(("sigmoid", "softplus"), Nonlinearity(signed=False, zero=False)),
    **dict.fromkeys(
        (
            "celu", "elu", "gelu", "glu", "leaky_relu", "log_sigmoid", "mish", "prelu", "rrelu", "selu", "silu", "tanh",
        ),
        Nonlinearity(signed=True, zero=False),
    ),
}  # fmt: skip
# Operations that act as nonlinearities in some networks and are not looked at; `maximum` is that of two activations.
_SUSPECT = {
    "abs", "clamp", "clamp_min", "clip", "cos", "exp", "ge", "gru", "gt", "le", "log", "log1p", "lstm", "lt", "max",
    "maximum", "min", "minimum", "pow", "rnn_relu", "rnn_tanh", "sgn", "sign", "sin", "square", "where",
}  # fmt: skip
# Operations whose parameters make a layer; a scale or a shift of logits does not.
_MEETS = LAYERS | {
    "addmm", "baddbmm", "batch_norm", "bmm", "dot", "einsum", "embedding", "group_norm", "gru", "instance_norm",
    "layer_norm", "lstm", "matmul", "mm", "mv", "rms_norm", "rnn_relu", "rnn_tanh",
}  # fmt: skip
_BOUNDED = {"hardtanh", "clamp", "clamp_min", "clip", "threshold"}


@dataclass(frozen=True)
class Layer:
    """The units of one call of a layer or a nonlinearity, as tables name it.

    `positions` values belong to a unit and a sample. `zero`: the nonlinearity has a zero region, so that frequencies
    mean something.
    """

    kind: Kind
    name: str
    operation: str
    units: int
    positions: int
    zero: bool


@dataclass(frozen=True)
class Site:
    """Where a layer's units are in the graph: on the axis `unit_axis` of what the node computes.

    A unit is dormant where none of its values exceeds ε, for `absolute` sites in absolute value.
    """

    layer: Layer
    node: fx.Node
    samples: SampleAxis
    unit_axis: int
    absolute: bool

    def by_sample(self, value: Tensor, reduced: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Tensor:
        """`reduced` over all axes of `value` but samples and units, [N, units]."""
        units = self.unit_axis
        if not self.samples.plain:  # what shared an axis with the samples stays behind them
            value, units = self.samples.first(value), units + 1
        samples = self.samples.number if self.samples.plain else 0
        others = tuple(axis for axis in range(value.ndim) if axis not in (samples, units))
        found = reduced(value, others) if others else value
        return found if samples < units else found.t()


def find(graph: Graph) -> tuple[list[Site], list[str]]:
    """All sites in execution order, and what the user should know of those that were left out or come twice.

    Nothing behind the last parameter is a hidden unit: a nonlinearity there belongs to the output layer. Raises
    Inseparable where the samples cannot be told apart at a site.
    """
    axes, hidden = unit_axes.find(graph), _before_parameters(graph)
    calls, apart, unknown, sites = Counter[tuple[Kind, str]](), list[str](), list[str](), list[Site]()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        sample_axis.check_order(node)
        kind, absolute, zero = _looked_at(node)
        if kind is None and operation(node) in _SUSPECT and node in hidden and sample_axis.has_samples(node):
            unknown.append(_name(node, "post", graph))
        if kind is None or (kind == "post" and node not in hidden):
            continue
        name = _name(node, kind, graph)
        if not sample_axis.has_samples(node):
            apart.append(name)
            continue
        calls[kind, name] += 1
        number = calls[kind, name]
        axis = axes[node] if node in axes else unit_axes.guess(node)
        sites.append(_site(node, axis, kind, f"{name}#{number}" if number > 1 else name, absolute, zero))
    notes = {
        "called more than once, and counted once per call": [
            n for (_, n), count in calls.items() if count > 1
        ],
        "left out, as they see no samples": apart,
        "not looked at, though they may act as nonlinearities": list(dict.fromkeys(unknown)),
    }
    return sites, [f"{text}: {_listed(found)}" for text, found in notes.items() if found]


def _listed(found: list[str]) -> str:
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _site(node: fx.Node, axis: int, kind: Kind, name: str, absolute: bool, zero: bool) -> Site:
    shape, samples = shape_of(node.meta["val"]), sample_axis.of(node)
    assert shape is not None
    if axis == samples.number:
        raise Inseparable(f"{name}: units and samples lie on one axis")
    count = shape[samples.number] // (samples.outer * samples.inner)
    positions = math.prod(shape) // (count * shape[axis])
    layer = Layer(kind, name, operation(node), shape[axis], positions, zero)
    return Site(layer, node, samples, axis, absolute)


def _looked_at(node: fx.Node) -> tuple[Kind | None, bool, bool]:
    """Which kind of site a node is, whether absolute values count there, and whether frequencies mean something."""
    if operation(node) in LAYERS:
        inside = _in_attention(node)
        return (None if inside and not _leaves_attention(node) else "pre"), inside, False
    found = _nonlinearity(node, operation(node))
    return (None, False, False) if found is None else ("post", found.signed, found.zero)


def _nonlinearity(node: fx.Node, name: str) -> Nonlinearity | None:
    if name in _PLAIN:
        return _PLAIN[name]
    if name == "maximum" and sum(sample_axis.has_samples(a) for a in node.all_input_nodes) == 1:
        return Nonlinearity(signed=True, zero=True)  # with a constant, which is 0 for a ReLU
    if name not in _BOUNDED or any(isinstance(a, fx.Node) for a in node.args[1:]):
        return None
    if name == "threshold":
        return Nonlinearity(signed=True, zero=float(cast("float", node.args[2])) == 0)
    bound = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", node.kwargs.get("min_val", -1.0))
    low = float(bound) if isinstance(bound, int | float) else -1.0
    if name != "hardtanh" and low != 0:
        return None  # a bound that keeps numbers safe, not an activation
    return Nonlinearity(signed=low < 0, zero=low == 0)


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
