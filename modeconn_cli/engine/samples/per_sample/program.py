"""Runs a graph with a model's own tensors and hears of the gradient at every use of a parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from modeconn_cli.engine.networks.graph import Graph, operation, schema
from modeconn_cli.engine.networks.layout import Unclear
from modeconn_cli.engine.samples.per_sample.rules import Met
from modeconn_cli.engine.samples.per_sample.uses import MOVES, Plan, Use, overwritten

Arrived = Callable[[Use, Met], None]
Leaf = tuple[Tensor, Callable[[Tensor], None]]  # and what has to be told its gradient


class Program:
    """A traced model whose parameters take no gradients, only the data flowing through them."""

    def __init__(self, graph: Graph, plan: Plan, model: nn.Module, device: torch.device) -> None:
        self.plan = plan
        self._state: dict[str, Tensor] = model.state_dict(
            keep_vars=True
        )  # live: new weights need no new trace
        self._names = {place: graph.canonical(name) for place, name in graph.tensors.items()}
        self._constants = {name: tensor.to(device) for name, tensor in graph.constants.items()}
        self._nodes = [node for node in graph.nodes if node not in plan.fixed]
        self._targets = {node: self._target(node) for node in self._nodes if node.op == "call_function"}
        self._last = self._last_uses()
        for node in plan.uses:
            if schema(node).is_mutable and not self._replaced(node):
                raise Unclear(f"{operation(node)} overwrites what its gradient needs")
        self._written = {node for node in plan.uses if overwritten(node)}
        self.fixed: dict[fx.Node, Any] = {}

    def refresh(self) -> None:
        """Compute what depends on the parameters alone, with its gradient; to be called when they have changed."""
        self.roots = {
            name: self._state[name].detach().requires_grad_()
            for names in self.plan.made_of.values()
            for name in names
        }
        values: dict[fx.Node, Any] = {}
        with torch.enable_grad():
            for node in sorted(self.plan.fixed):
                if node.op == "placeholder":
                    if node.name in self._constants:
                        values[node] = self._constants[node.name]
                    else:
                        name = self._names[node.name]
                        values[node] = self.roots.get(name, self._state[name].detach())
                else:
                    values[node] = _call(cast("Callable[..., Any]", node.target), node, values)
        self.fixed = values

    def run(self, images: Tensor, arrived: Arrived) -> tuple[Tensor, list[Leaf]]:
        """Logits, and the first uses on each way from the input: their gradients have to be asked for."""
        values: dict[fx.Node, Any] = {
            node: value.detach() if isinstance(value, Tensor) else value for node, value in self.fixed.items()
        }
        leaves: list[Leaf] = []
        for node in self._nodes:
            if node.op == "placeholder":
                values[node] = images
            elif node.op == "output":
                return _logits(node, values), leaves
            else:
                out = _call(self._targets[node], node, values)
                if node in self.plan.uses:
                    out = self._listen(self.plan.uses[node], out, values, arrived, leaves)
                values[node] = out
                if self._replaced(node):
                    values[cast("fx.Node", node.args[0])] = out
            for done in self._last[node]:
                values.pop(done, None)
        raise AssertionError("a graph without an output")

    def _listen(
        self, use: Use, out: Tensor, values: dict[fx.Node, Any], arrived: Arrived, leaves: list[Leaf]
    ) -> Tensor:
        # Detached: a hook that holds a part of its own graph would never be freed.
        args = [a.detach() if isinstance(a, Tensor) else a for a in _arguments(use.node, values)[0]]
        met = Met(args, out.detach() if use.rule.needs_output else None, None, use.inside, use.outside)
        versions = [t._version for t in met.tensors()]

        def hear(gradient: Tensor) -> None:
            if [t._version for t in met.tensors()] != versions:
                raise Unclear(f"a tensor at {use.node.name} is overwritten in place")
            met.arrived = gradient
            arrived(use, met)
            met.clear()

        if out.requires_grad:
            out.register_hook(hear)  # type: ignore[no-untyped-call]
            return out
        leaf = out.detach().requires_grad_()
        leaves.append((leaf, hear))
        return leaf.clone() if use.node in self._written else leaf  # a leaf cannot be written into

    def _target(self, node: fx.Node) -> Callable[..., Any]:
        """The operation; without its in-place mark where a rule needs the tensor that it would overwrite."""
        target = cast("Callable[..., Any]", node.target)
        if self._replaced(node):
            packet = getattr(torch.ops.aten, operation(node))
            return cast("Callable[..., Any]", getattr(packet, cast("Any", target)._overloadname))
        return target

    def _replaced(self, node: fx.Node) -> bool:
        if not isinstance(node.target, torch._ops.OpOverload) or not node.args:
            return False
        name = node.target._schema.name
        if not name.endswith("_") or name.endswith("__") or not hasattr(torch.ops.aten, operation(node)):
            return False
        overwritten = node.args[0]
        if not isinstance(overwritten, fx.Node) or operation(overwritten) in MOVES:
            return False
        viewed = any(operation(user) in MOVES for user in overwritten.users if user.op == "call_function")
        return self._needed(overwritten) and not viewed

    def _needed(self, node: fx.Node) -> bool:
        """Whether a rule reads what a node computes, or a gradient begins there."""
        use = self.plan.uses.get(node)
        first = use is not None and not any(a in self.plan.dependent for a in node.all_input_nodes)
        read = any(user in self.plan.uses for user in node.users)
        return first or read or (use is not None and use.rule.needs_output)

    def _last_uses(self) -> dict[fx.Node, list[fx.Node]]:
        """node -> the nodes whose values are not needed after it."""
        last: dict[fx.Node, fx.Node] = {}
        for node in self._nodes:
            for source in node.all_input_nodes:
                if source not in self.plan.fixed:
                    last[source] = node
        out: dict[fx.Node, list[fx.Node]] = {node: [] for node in self._nodes}
        for source, node in last.items():
            out[node].append(source)
        return out


def _arguments(node: fx.Node, values: dict[fx.Node, Any]) -> tuple[Any, dict[str, Any]]:
    found: tuple[Any, dict[str, Any]] = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    return found


def _call(target: Callable[..., Any], node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    args, kwargs = _arguments(node, values)
    return target(*args, **kwargs)


def _logits(node: fx.Node, values: dict[fx.Node, Any]) -> Tensor:
    (found,) = _arguments(node, values)[0]
    while isinstance(found, tuple | list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise Unclear("the network's output is not one tensor of logits [N, classes]")
    return found
