"""Where parameters meet the data: every operation of a graph that takes a parameter, or what is made of parameters
alone, beside something that depends on the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import fx

from modeconn_cli.engine.networks import sample_axis
from modeconn_cli.engine.networks.flat import modes
from modeconn_cli.engine.networks.graph import Graph, operation, schema
from modeconn_cli.engine.networks.sample_axis import Inseparable, SampleAxis
from modeconn_cli.engine.samples.per_sample.rules import RULES, Rule

Names = Mapping[
    fx.Node, tuple[str, ...]
]  # what does not depend on the input, and the parameters it is made of


@dataclass(frozen=True)
class Use:
    """An operation with parameters among its arguments, which are told apart by their place.

    `whole`: parameters that are used here alone, by name: the squares of gradients by them simply add up. `made`: what
    is used elsewhere too, or made of parameters: gradients by them are needed themselves.
    """

    rule: Rule
    data_axis: SampleAxis | None
    output_axis: SampleAxis
    whole: dict[int, str] = field(default_factory=dict)
    made: dict[int, fx.Node] = field(default_factory=dict)


def find(graph: Graph, trainable: Collection[str], made_of: Names) -> dict[fx.Node, Use]:
    """Every use of trainable parameters. Raises Inseparable where one has no rule, or no axis of the samples."""
    sample_axis.follow(graph)
    taken: dict[fx.Node, dict[int, fx.Node]] = {}  # operation -> place -> what it takes of parameters there
    for node in graph.nodes:
        if node.op != "call_function" or node in made_of or not modes(node).gradients:
            continue
        sources = {a for a in node.all_input_nodes if any(n in trainable for n in made_of.get(a, ()))}
        if sources:
            taken[node] = {k: a for k, a in enumerate(node.args) if isinstance(a, fx.Node) and a in sources}
            if set(taken[node].values()) != sources:
                raise Inseparable(f"{operation(node)} takes a parameter in a list")
    for output in filter(sample_axis.has_samples, graph.nodes[-1].all_input_nodes):
        sample_axis.of(output)
    times = Counter(name for places in taken.values() for a in places.values() for name in made_of[a])
    return {node: _use(node, places, made_of, times) for node, places in taken.items()}


def _use(node: fx.Node, places: Mapping[int, fx.Node], made_of: Names, times: Mapping[str, int]) -> Use:
    """One use; `times` says how often each parameter is used."""
    name, first = operation(node), node.args[0]
    rule = RULES.get(name)
    data = first if isinstance(first, fx.Node) and first not in made_of else None
    if modes(node).autocast:
        raise Inseparable(f"{name} under autocast has no rule")
    if rule is None or not set(places) <= set(rule.places) or not _is_plain(node):
        raise Inseparable(f"{name} has no rule")
    if data is None and 0 not in rule.places:
        raise Inseparable(f"{name} takes no data first")
    use = Use(rule, None if data is None else sample_axis.of(data), sample_axis.of(node))
    axes = (use.data_axis, use.output_axis)
    if not rule.shared_axis and not all(axis is None or axis.plain for axis in axes):
        raise Inseparable(f"{name} with several entries of a sample on the samples' axis")
    for place, source in places.items():
        if source.op == "placeholder" and times[made_of[source][0]] == 1:
            use.whole[place] = made_of[source][0]
        else:
            use.made[place] = source
    return use


def _is_plain(node: fx.Node) -> bool:
    """Whether an operation is of the form that its rule is for."""
    if schema(node).is_mutable:
        return False  # written into a tensor in place
    match operation(node):
        case "batch_norm":
            return not node.args[5]  # by running statistics
        case "conv2d":
            return not any(isinstance(argument, str) for argument in node.args)  # padded by a number
        case "add":
            return not node.kwargs and len(node.args) == 2  # without a factor
    return True
