"""Which operations of a graph are nonlinearities, those that a network spells out among them.

A tensor that meets a nonlinearity of itself entry by entry is one nonlinearity with it: a product with a gate, x·σ(βx)
or x·relu6(x + 3)/6, a sum, x - tanh(x), or a choice, max(x, αx). It is looked at where it is complete, and what it is
made of is not. Scales, shifts and a batch norm with running statistics may lie between; what mixes entries, as the
pooling and layers of squeeze and excitation do, makes a gate of its own.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import fx

from modeconn_cli.engine.networks import graph as graphs
from modeconn_cli.engine.networks.graph import Graph, shape_of


@dataclass(frozen=True)
class Nonlinearity:
    """`signed`: values below zero occur; `zero`: a whole region of inputs gives zero."""

    signed: bool
    zero: bool


_PLAIN: dict[str, Nonlinearity] = {
    **dict.fromkeys(("relu", "relu6", "hardsigmoid"), Nonlinearity(signed=False, zero=True)),
    **dict.fromkeys(("hardswish", "hardshrink", "softshrink"), Nonlinearity(signed=True, zero=True)),
    **dict.fromkeys(("sigmoid", "softplus", "special_expit"), Nonlinearity(signed=False, zero=False)),
    **dict.fromkeys(
        (
            "celu", "elu", "gelu", "glu", "leaky_relu", "log_sigmoid", "mish", "prelu", "rrelu", "selu", "silu", "tanh",
        ),
        Nonlinearity(signed=True, zero=False),
    ),
}  # fmt: skip
_BOUNDED = {"hardtanh", "clamp", "clamp_min", "clip", "threshold"}
_COMPARES = {"ge", "gt", "le", "lt"}
# Operations that act as nonlinearities in some networks and are not looked at; `maximum` is that of two activations.
_SUSPECT = _COMPARES | {
    "abs", "atan", "clamp", "clamp_min", "clip", "cos", "erf", "exp", "gru", "log", "log1p", "lstm", "max", "maximum",
    "min", "minimum", "pow", "rnn_relu", "rnn_tanh", "sgn", "sign", "sin", "special_erf", "special_ndtr", "sqrt",
    "square", "where",
}  # fmt: skip

_TIMES, _OVER = {"mul", "multiply"}, {"div", "divide", "true_divide"}
_SUMS = {"add", "lerp", "rsub", "sub", "subtract"}
_CHOICES = {"masked_fill", "max", "maximum", "min", "minimum", "where"}  # `max` and `min` of two tensors
_EXPONENTIALS, _CLOSES = {"exp", "exp2"}, {"log", "log1p", "reciprocal"}  # log(1 + exp(x)), 1 / (1 + exp(-x))
_JOINS = _TIMES | _OVER | _CHOICES | {"addcdiv", "addcmul"}
_CONSTANT = {"full_like", "ones_like", "zeros_like"}
_SAME = {
    "_to_copy",
    "alias",
    "clone",
    "contiguous",
    "detach",
    "dropout",
    "lift_fresh_copy",
    "positive",
    "to",
    "type_as",
}
_CURVED = (_PLAIN.keys() - {"glu"}) | _BOUNDED | _COMPARES | {
    "abs", "absolute", "asinh", "atan", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1", "log", "log1p",
    "logical_not", "reciprocal", "rsqrt", "sgn", "sign", "sin", "sinh", "special_erf", "special_erfc",
    "special_ndtr", "sqrt", "tan", *_CHOICES,
}  # fmt: skip
POINTWISE = (
    _JOINS | _CONSTANT | (_TIMES | _OVER | _SUMS | _SAME | _CURVED | {"neg", "negative", "pow", "square"})
)


def operation(node: fx.Node) -> str:
    """The name of an operation; an einsum that multiplies entry by entry is a product: `bc,bc->bc`, `bc,c->bc`."""
    name = graphs.operation(node)
    if name != "einsum":
        return name
    before, _, after = str(node.args[0]).replace(" ", "").partition("->")
    return "mul" if "." not in after and all(after.endswith(term) for term in before.split(",")) else name


def _arguments(node: fx.Node) -> Sequence[object]:
    """What an operation is given; of an einsum its tensors."""
    listed = node.args[1] if graphs.operation(node) == "einsum" else node.args
    return cast("Sequence[object]", listed)


def find(graph: Graph) -> tuple[dict[fx.Node, Nonlinearity], set[fx.Node]]:
    """All nonlinearities; and the operations that may act as such and are not looked at."""
    fixed = graph.made_of()
    written, parts = _Pointwise(graph, fixed).written()
    found, unknown = dict[fx.Node, Nonlinearity](), set[fx.Node]()
    for node in graph.nodes:
        known = written.get(node) or (None if node in parts else _of(node, fixed))
        if known is not None:
            found[node] = known
        elif node.op == "call_function" and node not in parts and operation(node) in _SUSPECT:
            unknown.add(node)
    return found, unknown


def _of(node: fx.Node, fixed: Container[fx.Node]) -> Nonlinearity | None:
    """What a single operation is; `fixed` does not depend on the input."""
    name = operation(node) if node.op == "call_function" else ""
    if name in _PLAIN:
        return _PLAIN[name]
    if name in ("max", "maximum") and isinstance(node.args[-1], fx.Node):  # with a constant, 0 for a ReLU
        alone = sum(source not in fixed for source in node.all_input_nodes) == 1
        return Nonlinearity(signed=True, zero=True) if alone else None
    return _bounded(node, name)


def _bounded(node: fx.Node, name: str) -> Nonlinearity | None:
    if name not in _BOUNDED or any(isinstance(a, fx.Node) for a in node.args[1:]):
        return None
    if name == "threshold":
        return Nonlinearity(signed=True, zero=float(cast("float", node.args[2])) == 0)
    bound = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", node.kwargs.get("min_val", -1.0))
    low = float(bound) if isinstance(bound, int | float) else -1.0
    if name != "hardtanh" and low != 0:
        return None  # a bound that keeps numbers safe, not an activation
    return Nonlinearity(signed=low < 0, zero=low == 0)


class _Pointwise:
    """The tensors that the nodes of a graph are pointwise functions of.

    `_root`: the one tensor of which a node is a function, entry by entry, with constants and parameters; what mixes
    entries, or two tensors, is its own.
    """

    def __init__(self, graph: Graph, fixed: Container[fx.Node]) -> None:
        self._graph, self._fixed = graph, fixed
        self._order = {node: k for k, node in enumerate(graph.nodes)}
        self._root: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            if node in self._fixed:
                continue
            roots = {self._root[source] for source in self._data(node)}
            root = roots.pop() if len(roots) == 1 else node
            shape = shape_of(node.meta.get("val"))
            whole = shape is not None and shape == shape_of(root.meta.get("val"))
            self._root[node] = root if _by_entry(node) and whole else node

    def _data(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source in self._root]

    def written(self) -> tuple[Mapping[fx.Node, Nonlinearity], set[fx.Node]]:
        """Nonlinearities that are spelled out, at their last operation, and the operations inside of them."""
        found, parts = dict[fx.Node, Nonlinearity](), set[fx.Node]()
        for node in reversed(self._graph.nodes):
            value = None if node in parts else self._value(node)
            if value is None:
                continue
            whole = self._completed(node)
            if whole not in found:
                closes = operation(node) in _CLOSES
                found[whole] = Nonlinearity(signed=not closes, zero=not closes and self._has_zeros(whole))
                parts |= self._inside(whole, value)
        return found, parts

    def _value(self, node: fx.Node) -> fx.Node | None:
        """The tensor that meets a nonlinearity of itself in a node: the last one that everything in it is made of.

        None where there is no such meeting.
        """
        if self._root.get(node, node) is node:
            return None
        name, between = operation(node), {operation(node)}
        operands = [a for a in _arguments(node) if isinstance(a, fx.Node) and a in self._root]
        if name not in _CLOSES and (len(operands) < 2 or name not in _JOINS | _SUMS):
            return None
        wanted = _EXPONENTIALS if name in _CLOSES else _CURVED
        open_ends = set(operands)
        while len(open_ends) > 1 or (name in _CLOSES and not between & wanted):
            latest = max(open_ends, key=self._order.__getitem__)
            if self._root[latest] is latest:
                return None
            open_ends.remove(latest)
            open_ends.update(self._data(latest))
            between.add(operation(latest))
        return open_ends.pop() if between & wanted else None

    def _completed(self, node: fx.Node) -> fx.Node:
        """The last operation of a nonlinearity: numbers as factors and casts may follow."""
        while len(node.users) == 1:
            (user,) = node.users
            if self._root[user] is not self._root[node] or not self._continues(node, user):
                break
            node = user
        return node

    def _continues(self, node: fx.Node, user: fx.Node) -> bool:
        name, others = operation(user), [argument for argument in _arguments(user) if argument is not node]
        first = _arguments(user)[0] is node
        scaled = name in _TIMES or (name in _OVER and first)
        return (name in _SAME and first) or (scaled and all(isinstance(a, int | float) for a in others))

    def _inside(self, whole: fx.Node, value: fx.Node) -> set[fx.Node]:
        """The operations between a tensor and a function of it that nothing else reads."""
        inside, todo = set[fx.Node](), [whole]
        while todo:
            for source in self._data(todo.pop()):
                read = all(user is whole or user in inside for user in source.users)
                if source is not value and source not in inside and read:
                    inside.add(source)
                    todo.append(source)
        return inside

    def _has_zeros(self, node: fx.Node) -> bool:
        """Whether a factor of a product, or what is chosen, is zero in a whole region."""
        name, within = operation(node), self._root[node] is not node
        if name in _CHOICES and within:
            return any(a == 0 if isinstance(a, int | float) else _is_zero(a) for a in node.args)
        if name in _TIMES | _OVER | _SAME and within:
            factors = self._data(node) if name in _TIMES else self._data(node)[:1]
            return any(self._has_zeros(factor) for factor in factors)
        known = _of(node, self._fixed)
        return name in _COMPARES or (known is not None and known.zero)


def _by_entry(node: fx.Node) -> bool:
    """Whether an operation gives each entry from the same entries of its sources."""
    name = operation(node)
    return name in POINTWISE or (
        name == "batch_norm" and not node.args[5]
    )  # of a batch's own statistics it mixes


def _is_zero(argument: object) -> bool:
    return isinstance(argument, fx.Node) and operation(argument) == "zeros_like"
