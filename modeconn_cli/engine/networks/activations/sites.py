"""Where a network's units are looked at: the outputs of its layers, as documented, and of its nonlinearities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, fx

from modeconn_cli.engine.networks import layout
from modeconn_cli.engine.networks.activations import unit_axes
from modeconn_cli.engine.networks.graph import CONVOLUTIONS, TRANSPOSED, Graph, operation, shape_of
from modeconn_cli.engine.networks.layout import Layout, Unclear

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
    *(
        "abs",
        "ge",
        "gru",
        "gt",
        "le",
        "lstm",
        "lt",
        "maximum",
        "minimum",
        "rnn_relu",
        "rnn_tanh",
        "sgn",
        "sign",
        "where",
    ),
    *("clamp", "clamp_min", "clip", "max", "min", "sin", "cos", "exp", "log", "log1p", "square", "pow"),
}
# Operations whose parameters make a layer; a scale or a shift of logits does not.
_MEETS = {
    *LAYERS,
    *(
        "addmm",
        "baddbmm",
        "bmm",
        "dot",
        "einsum",
        "embedding",
        "gru",
        "lstm",
        "matmul",
        "mm",
        "mv",
        "rnn_relu",
    ),
    *("rnn_tanh", "batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"),
}
_BOUNDED = {"hardtanh", "clamp", "clamp_min", "clip", "threshold"}


@dataclass(frozen=True)
class Site:
    """Units of one call of a layer or a nonlinearity: `axis` is theirs in what the node computes.

    `positions` values belong to a unit and a sample; a unit is dormant where none of them exceeds ε, for `absolute`
    sites in absolute value. `zero`: the nonlinearity has a zero region, so that frequencies mean something.
    """

    kind: Kind
    name: str
    operation: str
    node: fx.Node
    layout: Layout
    axis: int
    units: int
    positions: int
    absolute: bool
    zero: bool

    def by_sample(self, value: Tensor, reduced: Callable[[Tensor, tuple[int, ...]], Tensor]) -> Tensor:
        """`reduced` over all axes of `value` but samples and units, [N, units]."""
        if self.layout.plain:
            kept = (self.layout.axis, self.axis)
            found = reduced(value, tuple(k for k in range(value.ndim) if k not in kept))
            return found if kept[0] < kept[1] else found.t()
        # What shared an axis with the samples has moved behind them: all other axes are one further.
        return reduced(
            self.layout.first(value), tuple(k for k in range(1, value.ndim + 1) if k != self.axis + 1)
        )


def find(graph: Graph) -> tuple[list[Site], list[str]]:
    """All sites in execution order, and what the user should know of those that were left out or come twice.

    Nothing behind the last parameter is a hidden unit: a nonlinearity there belongs to the output layer. Raises
    Unclear where the samples cannot be told apart at a site.
    """
    axes = unit_axes.find(graph)
    hidden = _before_parameters(graph)
    calls, apart, unknown, sites = Counter[tuple[Kind, str]](), list[str](), list[str](), list[Site]()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        layout.check_order(node)
        kind, absolute, zero = _looked_at(node)
        if kind is None and operation(node) in _SUSPECT and node in hidden and layout.has_samples(node):
            unknown.append(_name(node, "post", graph))
        if kind is None or (kind == "post" and node not in hidden):
            continue
        name = _name(node, kind, graph)
        if not layout.has_samples(node):
            apart.append(name)
            continue
        calls[kind, name] += 1
        if calls[kind, name] > 1:
            name = f"{name}#{calls[kind, name]}"
        sites.append(_site(kind, name, node, axes, absolute=absolute, zero=zero))
    twice = [name for (_, name), count in calls.items() if count > 1]
    notes = {
        "called more than once, and counted once per call": twice,
        "left out, as they see no samples": apart,
        "not looked at, though they may act as nonlinearities": list(dict.fromkeys(unknown)),
    }
    return sites, [f"{text}: {_listed(found)}" for text, found in notes.items() if found]


def _listed(found: list[str]) -> str:
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _site(
    kind: Kind, name: str, node: fx.Node, axes: dict[fx.Node, int], *, absolute: bool, zero: bool
) -> Site:
    shape, where = shape_of(node.meta["val"]), layout.of(node)
    assert shape is not None
    axis = axes[node] if node in axes else unit_axes.guess(node)
    if axis == where.axis:
        raise Unclear(f"{name}: units and samples lie on one axis")
    samples = shape[where.axis] // (where.outer * where.inner)
    count = 1
    for size in shape:
        count *= size
    return Site(
        kind, name, operation(node), node, where, axis, shape[axis], count // (samples * shape[axis]), absolute, zero
    )  # fmt: skip


def _looked_at(node: fx.Node) -> tuple[Kind | None, bool, bool]:
    """Which kind of site a node is, whether absolute values count there, and whether frequencies mean something."""
    name = operation(node)
    if name in LAYERS:
        if not _in_attention(node):
            return "pre", False, False
        return ("pre", True, False) if _leaves_attention(node) else (None, False, False)
    found = _nonlinearity(node, name)
    return (None, False, False) if found is None else ("post", found.signed, found.zero)


def _nonlinearity(node: fx.Node, name: str) -> Nonlinearity | None:
    if name in _PLAIN:
        return _PLAIN[name]
    if name == "maximum" and sum(layout.has_samples(a) for a in node.all_input_nodes) == 1:
        return Nonlinearity(signed=True, zero=True)  # with a constant, which is 0 for a ReLU
    if name not in _BOUNDED or any(isinstance(a, fx.Node) for a in node.args[1:]):
        return None
    if name == "threshold":
        return Nonlinearity(signed=True, zero=float(cast("float", node.args[2])) == 0)
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", node.kwargs.get("min_val", -1.0))
    low = float(given) if isinstance(given, int | float) else -1.0
    if name != "hardtanh" and low != 0:
        return None  # a bound that keeps numbers safe, not an activation
    return Nonlinearity(signed=low < 0, zero=low == 0)


def _name(node: fx.Node, kind: Kind, graph: Graph) -> str:
    """The module that an operation is; else the parameter's of a layer, else the module around it and the operation."""
    path, of = _innermost(node)
    if kind == "pre" and not _in_attention(node):
        weight = node.args[1] if len(node.args) > 1 else None
        if isinstance(weight, fx.Node) and weight.name in graph.tensors:
            return graph.tensors[weight.name].rpartition(".")[0] or operation(node)
    if path and of.rpartition(".")[0] == "torch.nn.modules.activation":
        return path
    return ".".join(filter(None, (path, operation(node))))


def _innermost(node: fx.Node) -> tuple[str, str]:
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    if not modules:
        return "", ""
    path, kind = modules[-1]
    return str(path), kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _in_attention(node: fx.Node) -> bool:
    return _innermost(node)[1].endswith(ATTENTION)


def _leaves_attention(node: fx.Node) -> bool:
    """Whether a layer inside an attention module is its last: no other layer of the same module follows."""
    module, seen, todo = _innermost(node), set[fx.Node](), list(node.users)
    while todo:
        user = todo.pop()
        if user in seen or user.op != "call_function" or _innermost(user) != module:
            continue
        if operation(user) in LAYERS:
            return False
        seen.add(user)
        todo += user.users
    return True


def _before_parameters(graph: Graph) -> set[fx.Node]:
    """Nodes behind which the data still meets a parameter."""
    fixed = {node for node in graph.nodes if node.op == "placeholder" and node.name in graph.tensors}
    for node in graph.nodes:  # what depends on parameters alone
        if (
            node.op == "call_function"
            and node.all_input_nodes
            and all(a in fixed for a in node.all_input_nodes)
        ):
            fixed.add(node)
    out: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for user in node.users:
            meets = any(a in fixed for a in user.all_input_nodes)
            if (
                node not in fixed
                and user.op == "call_function"
                and (user in out or (meets and operation(user) in _MEETS))
            ):
                out.add(node)
    return out
