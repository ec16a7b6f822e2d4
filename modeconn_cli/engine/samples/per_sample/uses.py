"""Where parameters meet the data: every operation of a graph that takes a parameter, or what is made of parameters
alone, beside something that depends on the input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx

from modeconn_cli.engine.networks import layout
from modeconn_cli.engine.networks.graph import Graph, operation, schema
from modeconn_cli.engine.networks.layout import Layout, Unclear
from modeconn_cli.engine.samples.per_sample.any_operation import AnyOperation
from modeconn_cli.engine.samples.per_sample.rules import RULES, Rule

# Operations that only say where elements are.
MOVES = {
    "view", "reshape", "flatten", "unflatten", "_unsafe_view", "permute", "transpose", "t", "movedim", "unsqueeze",
    "squeeze", "select", "slice", "split", "split_with_sizes", "chunk", "getitem", "contiguous", "clone", "alias",
    "unbind", "narrow",
}  # fmt: skip


@dataclass
class Use:
    """An operation with parameters. `whole` are the arguments whose squares simply add to those of a parameter, with
    its name; the gradients of those in `collected` are needed themselves."""

    node: fx.Node
    rule: Rule
    inside: Layout | None
    outside: Layout
    parts: dict[int, fx.Node]  # argument number -> the parameter, or what was made of parameters
    whole: dict[int, str] = field(default_factory=dict)
    collected: set[int] = field(default_factory=set)


@dataclass
class Plan:
    """A graph taken apart: nodes free of the data, uses, and what parameters a collected tensor is made of."""

    fixed: set[fx.Node]
    uses: dict[fx.Node, Use]
    made_of: dict[fx.Node, tuple[str, ...]]  # collected node -> names of trainable parameters
    dependent: set[fx.Node]  # nodes with a gradient: behind a use


def find(graph: Graph, trainable: Iterable[str]) -> Plan:
    """Raises Unclear where a parameter is used in a way that no rule covers."""
    wanted = set(trainable)
    names = {p: graph.canonical(name) for p, name in graph.tensors.items()}
    fixed, made_of = _fixed(graph, names, wanted)
    uses: dict[fx.Node, Use] = {}
    dependent: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or node in fixed:
            continue
        parts = {i: a for i, a in enumerate(node.args) if isinstance(a, fx.Node) and made_of.get(a)}
        inside = [a for a in node.all_input_nodes if made_of.get(a) and a not in parts.values()]
        if inside:
            raise Unclear(f"{operation(node)} takes the parameter {made_of[inside[0]][0]} in a list")
        if parts:
            uses[node] = _use(node, parts, fixed)
        layout.check_order(node)
        if parts or (operation(node) != "detach" and any(a in dependent for a in node.all_input_nodes)):
            dependent.add(node)
    _decide(uses.values(), made_of)
    return Plan(fixed, uses, _collected(uses.values(), made_of), dependent)


def _fixed(
    graph: Graph, names: Mapping[str, str], wanted: set[str]
) -> tuple[set[fx.Node], dict[fx.Node, tuple[str, ...]]]:
    """The nodes that do not depend on the input, and the trainable parameters that each is made of."""
    fixed: set[fx.Node] = set()
    made_of: dict[fx.Node, tuple[str, ...]] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            if node.name in names or node.name in graph.constants:
                fixed.add(node)
                name = names.get(node.name)
                made_of[node] = (name,) if name in wanted else ()
        elif node.op == "call_function" and node.all_input_nodes and set(node.all_input_nodes) <= fixed:
            if not any(isinstance(size, torch.SymInt) for size in getattr(node.meta.get("val"), "shape", ())):
                fixed.add(node)
                sources = (name for source in node.all_input_nodes for name in made_of[source])
                # No gradient passes a detach.
                made_of[node] = () if operation(node) == "detach" else tuple(dict.fromkeys(sources))
        elif node.op == "call_function" and not node.all_input_nodes:
            fixed.add(node)
            made_of[node] = ()
    return fixed, made_of


def _use(node: fx.Node, parts: dict[int, fx.Node], fixed: set[fx.Node]) -> Use:
    name = operation(node)
    outside = layout.of(node)
    tensors = {
        i: layout.of(a)
        for i, a in enumerate(node.args)
        if isinstance(a, fx.Node) and a not in fixed and isinstance(a.meta.get("val"), Tensor)
    }
    rule = RULES.get(name)
    if name == "embedding" and len(node.args) > 3 and node.args[3]:
        raise Unclear("an embedding scales its gradient by the batch's frequencies")
    if schema(node).is_mutable and name not in ("add", "sub", "mul", "div"):
        raise Unclear(f"{name} writes a parameter into a tensor in place")
    if rule is None or not set(parts) <= set(rule.places) or (name == "batch_norm" and node.args[5]):
        if name == "batch_norm" or len(tensors) != len([a for a in node.all_input_nodes if a not in fixed]):
            raise Unclear(f"{name} has no rule")
        rule = AnyOperation(node.target, dict(node.kwargs), parts, tensors)
    if name in ("add", "sub", "mul", "div") and (node.kwargs or len(node.args) != 2):
        rule = AnyOperation(node.target, dict(node.kwargs), parts, tensors)
    merged = not all(found.plain for found in (outside, *tensors.values()))
    if merged and not rule.merged:
        raise Unclear(f"{name} with several entries of a sample on the samples' axis")
    inside = next(iter(tensors.values()), None)
    return Use(node, rule, inside, outside, parts)


def _decide(uses: Iterable[Use], made_of: Mapping[fx.Node, tuple[str, ...]]) -> None:
    """Which norms may be taken by themselves: where all uses of a parameter are of separate pieces of it."""
    meetings: dict[str, list[fx.Node]] = {}
    for use in uses:
        for part in use.parts.values():
            for name in made_of[part]:
                meetings.setdefault(name, []).append(part)
    separate = {name: _pieces(parts) for name, parts in meetings.items()}
    for use in uses:
        for place, part in use.parts.items():
            if len(made_of[part]) == 1 and separate[made_of[part][0]]:
                use.whole[place] = made_of[part][0]
            else:
                use.collected.add(place)


def _pieces(parts: list[fx.Node]) -> bool:
    """Whether tensors are pieces of one parameter, each moved only, that do not overlap."""
    if len(parts) == 1 and parts[0].op == "placeholder":
        return True
    pieces = [elements(part) for part in parts]
    flat = [piece.flatten() for piece in pieces if isinstance(piece, Tensor)]
    together = torch.cat(flat) if len(flat) == len(pieces) else None
    return together is not None and len(torch.unique(together)) == len(together)


def overwritten(node: fx.Node) -> bool:
    """Whether an operation writes into what a node computes, or into a view of it."""
    return any(
        (isinstance(user.target, torch._ops.OpOverload) and schema(user).is_mutable)
        or (operation(user) in MOVES and overwritten(user))
        for user in node.users
        if user.op == "call_function"
    )


def elements(node: fx.Node) -> Any:
    """Which elements of its parameter a node holds, in the node's form; None where it is more than a piece of one."""
    if overwritten(node):
        return None
    if node.op == "placeholder":
        shape = torch.Size(node.meta["val"].shape)
        return torch.arange(shape.numel()).view(shape)
    if operation(node) not in MOVES or len(node.all_input_nodes) != 1:
        return None
    source = elements(node.all_input_nodes[0])
    if source is None:
        return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda _: source)
    return cast("Callable[..., Any]", node.target)(*args, **kwargs)


def _collected(
    uses: Iterable[Use], made_of: Mapping[fx.Node, tuple[str, ...]]
) -> dict[fx.Node, tuple[str, ...]]:
    return {use.parts[place]: made_of[use.parts[place]] for use in uses for place in use.collected}
