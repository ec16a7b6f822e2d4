"""A traced program without sub-graphs, and its run.

Export puts what a forward does under `torch.no_grad()` or autocast into a sub-graph, which an operation of higher
order calls. Here every such call is replaced by the operations themselves, so that whoever reads the graph meets them
like any other; the modes under which an operation runs stand in its `meta`, and `Runner` enters them. Operations that
decide which of their sub-graphs run, or how often, stay as they are: `is_opaque` tells them, and all else that is not
ATen's.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

# Checks of export's own, of the device and the type that the trace was made with.
_CHECKS = frozenset({"_assert_tensor_metadata"})


@dataclass(frozen=True)
class Modes:
    """What is switched around an operation: gradients on or off, and autocast, the outermost first."""

    grad: bool | None = None
    autocast: tuple[tuple[Any, ...], ...] = ()

    @property
    def gradients(self) -> bool:
        """Whether gradients come through."""
        return self.grad is not False

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Switch them on for the block."""
        with contextlib.ExitStack() as stack:
            if self.grad is not None:
                stack.enter_context(torch.set_grad_enabled(self.grad))
            for device, dtype, enabled, cached in self.autocast:
                stack.enter_context(torch.autocast(device, dtype, enabled, cached))
            yield


PLAIN = Modes()
WRAPS = frozenset(
    {"wrap_with_set_grad_enabled", "wrap_with_autocast"}
)  # (settings of the mode, sub-graph, operands)


def modes(node: fx.Node) -> Modes:
    """Under which modes an operation runs."""
    found: Modes = node.meta.get("modes", PLAIN)
    return found


def is_higher_order(node: fx.Node) -> bool:
    """Whether an operation calls sub-graphs, or another operation."""
    return isinstance(node.target, torch._ops.HigherOrderOperator)


def is_opaque(node: fx.Node) -> bool:
    """Whether no reader of the graph knows what an operation does: it calls sub-graphs or another operation, or it is
    none of ATen's and takes or gives tensors, as those do that `torch.vmap` leaves in the graph.
    """
    if node.op != "call_function" or node.target is operator.getitem:
        return False
    if isinstance(node.target, torch._ops.OpOverload):
        return False
    values = (each.meta.get("val") for each in (node, *node.all_input_nodes))
    return is_higher_order(node) or any(isinstance(v, Tensor) for v in pytree.tree_leaves(list(values)))


class Runner(fx.Interpreter):
    """Runs a flat graph; those who do more at some operations override `compute`."""

    def run_node(self, n: fx.Node) -> Any:
        if "modes" not in n.meta:
            return self.compute(n)
        with modes(n).entered():
            return self.compute(n)

    def compute(self, n: fx.Node) -> Any:
        """What a node stands for; its modes are switched on."""
        return super().run_node(n)

    @torch.no_grad()
    def steps(self, *arguments: Any) -> Iterator[tuple[fx.Node, Any]]:
        """Run node by node, and hand each over with what it has computed, before anything overwrites that.

        Several runs can go in step: each holds what its own later nodes still read, and nothing else.
        """
        self.env, self.args_iter = {}, iter(arguments)
        for node in self.graph.nodes:
            if node.op == "output":
                break
            self.env[node] = self.run_node(node)
            yield node, self.env[node]
            for read in self.user_to_last_uses.get(node, ()):
                del self.env[read]
        self.env = {}


def flat(module: fx.GraphModule) -> fx.GraphModule:
    """The same program with the same placeholders, every sub-graph that is called once and as it is in its place."""
    return _Flat().copied(module)


class _Flat:
    def __init__(self) -> None:
        self._graph = fx.Graph()
        self._attributes: dict[str, Any] = {}

    def copied(self, module: fx.GraphModule) -> fx.GraphModule:
        self._graph.output(self._copy(module, {}, PLAIN))
        for node in list(self._graph.nodes):
            if node.op == "get_attr" and not node.users:
                self._graph.erase_node(node)
        return fx.GraphModule(self._attributes, self._graph)

    def _copy(self, module: fx.GraphModule, values: dict[fx.Node, Any], under: Modes) -> Any:
        """Copy a graph's operations; returns what its output is made of. `values`: what its nodes have become."""

        def read(argument: Any) -> Any:
            return fx.map_arg(argument, values.__getitem__)

        for node in module.graph.nodes:
            if node.op == "output":
                return read(node.args[0])
            if node in values:  # a placeholder of a sub-graph
                continue
            call = _call(module, node, under)
            if call is not None:
                body, operands, inside = call
                places = [each for each in body.graph.nodes if each.op == "placeholder"]
                found = self._copy(body, dict(zip(places, map(read, operands), strict=True)), inside)
                values[node] = found
            elif node.target is operator.getitem and isinstance(values.get(node.args[0]), tuple | list):
                values[node] = values[node.args[0]][node.args[1]]
            elif getattr(node.target, "_opname", "") not in _CHECKS:
                values[node] = self._copied(module, node, values, under)
        raise AssertionError("a graph without an output")

    def _copied(
        self, module: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any], under: Modes
    ) -> fx.Node:
        if node.op == "get_attr":
            name = f"attribute_{len(self._attributes)}"
            self._attributes[name] = _attribute(module, node)
            made = self._graph.get_attr(name)
            made.meta = dict(node.meta)
            return made
        made = self._graph.node_copy(node, values.__getitem__)
        if node.op == "placeholder":  # known by their names; fx would call `input` otherwise
            made.name = made.target = node.name
        if node.op == "call_function" and under != PLAIN:
            made.meta["modes"] = under
        return made


def _attribute(module: nn.Module, node: fx.Node) -> Any:
    return operator.attrgetter(str(node.target))(module)


def _call(
    module: fx.GraphModule, node: fx.Node, under: Modes
) -> tuple[fx.GraphModule, tuple[Any, ...], Modes] | None:
    """The sub-graph that an operation does nothing but call, its operands, and the modes inside of it."""
    if not is_higher_order(node) or str(node.target) not in WRAPS:
        return None
    at = next(k for k, a in enumerate(node.args) if isinstance(a, fx.Node) and a.op == "get_attr")
    said = node.args[:at]
    if str(node.target) == "wrap_with_autocast":
        inside = replace(under, autocast=(*under.autocast, said))
    else:
        inside = replace(under, grad=bool(said[0]))
    return _attribute(module, cast("fx.Node", node.args[at])), node.args[at + 1 :], inside
