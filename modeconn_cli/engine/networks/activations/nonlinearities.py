"""Which operations of a graph are nonlinearities, those that a network spells out among them.

A pointwise function of one tensor in which that tensor meets a gate of itself, x·σ(βx) or x·relu6(x + 3)/6, is one
nonlinearity: it is looked at where it is complete, and what it is made of is not.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import cast

from torch import fx

from modeconn_cli.engine.networks.graph import Graph, operation, shape_of


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
_SUMS = {"add", "sub", "subtract"}
_CHOICES = {"masked_fill", "maximum", "minimum", "where"}
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
    "logical_not", "rsqrt", "sgn", "sign", "sin", "sinh", "special_erf", "special_erfc",
    "special_ndtr", "sqrt", "tan", *_CHOICES,
}  # fmt: skip
POINTWISE = (
    _JOINS
    | _CONSTANT
    | (_TIMES | _OVER | _SUMS | _SAME | _CURVED | {"neg", "negative", "pow", "reciprocal", "rsub", "square"})
)


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
    if name == "maximum":  # with a constant, which is 0 for a ReLU
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
    entries, or two tensors, is its own. `_curved`: nodes that are no polynomial of it.
    """

    def __init__(self, graph: Graph, fixed: Container[fx.Node]) -> None:
        self._graph, self._fixed = graph, fixed
        self._root: dict[fx.Node, fx.Node] = {}
        self._curved: set[fx.Node] = set()
        for node in graph.nodes:
            if node in self._fixed:
                continue
            roots = {self._root[source] for source in self._data(node)}
            root = roots.pop() if len(roots) == 1 else node
            name, shape = operation(node), shape_of(node.meta.get("val"))
            whole = shape is not None and shape == shape_of(root.meta.get("val"))
            self._root[node] = root if name in POINTWISE and whole else node
            curved = name in _CURVED or any(source in self._curved for source in self._data(node))
            if self._root[node] is not node and curved:
                self._curved.add(node)

    def _data(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source in self._root]

    def written(self) -> tuple[Mapping[fx.Node, Nonlinearity], set[fx.Node]]:
        """Nonlinearities that are spelled out, at their last operation, and the operations inside of them."""
        found, parts = dict[fx.Node, Nonlinearity](), set[fx.Node]()
        for node in reversed(self._graph.nodes):
            if node in parts or not self._meets_its_gate(node):
                continue
            whole = self._completed(node)
            if whole not in found:
                found[whole] = Nonlinearity(signed=True, zero=self._has_zeros(whole))
                parts |= self._inside(whole)
        return found, parts

    def _meets_its_gate(self, node: fx.Node) -> bool:
        """Whether functions of one tensor are joined in a node: by a product where one is curved, by a sum where all
        are, or by a choice between them.
        """
        if node not in self._curved:
            return False
        operands = [a for a in node.args if isinstance(a, fx.Node) and a in self._root]
        if operation(node) in _SUMS:
            return len(operands) == 2 and self._curved.issuperset(operands)
        return len(operands) > 1 and operation(node) in _JOINS

    def _completed(self, node: fx.Node) -> fx.Node:
        """The last operation of a nonlinearity: numbers as factors, casts, and a sum with another part may follow."""
        while len(node.users) == 1:
            (user,) = node.users
            if self._root[user] is not self._root[node] or not self._continues(node, user):
                break
            node = user
        return node

    def _continues(self, node: fx.Node, user: fx.Node) -> bool:
        name, others = operation(user), [argument for argument in user.args if argument is not node]
        if name in _SUMS:
            return len(self._data(user)) == 2
        first = user.args[0] is node
        scaled = name in _TIMES or (name in _OVER and first)
        return (name in _SAME and first) or (scaled and all(isinstance(a, int | float) for a in others))

    def _inside(self, whole: fx.Node) -> set[fx.Node]:
        """The operations between a tensor and a function of it that nothing else reads."""
        inside, todo = set[fx.Node](), [whole]
        while todo:
            for source in self._data(todo.pop()):
                read = all(user is whole or user in inside for user in source.users)
                if self._root[source] is not source and source not in inside and read:
                    inside.add(source)
                    todo.append(source)
        return inside

    def _has_zeros(self, node: fx.Node) -> bool:
        """Whether a factor of a product, or what is chosen, is zero in a whole region."""
        name, within = operation(node), self._root[node] is not node
        if name in _CHOICES and within:
            return any(a == 0 if isinstance(a, int | float) else _is_zero(a) for a in node.args[1:])
        if name in _TIMES | _OVER | _SAME and within:
            factors = self._data(node) if name in _TIMES else self._data(node)[:1]
            return any(self._has_zeros(factor) for factor in factors)
        known = _of(node, self._fixed)
        return name in _COMPARES or (known is not None and known.zero)


def _is_zero(argument: object) -> bool:
    return isinstance(argument, fx.Node) and operation(argument) == "zeros_like"
