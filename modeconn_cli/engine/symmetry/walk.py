"""One pass over the graph: every operation's rule is applied, in execution order."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.flat import is_opaque
from modeconn_cli.engine.networks.graph import Graph, concrete, location, operation, schema, shape_of

# The rules register themselves.
from modeconn_cli.engine.symmetry import elementwise, layers, movement, products, recurrent, reductions  # noqa: F401
from modeconn_cli.engine.symmetry.labels import NOTHING, Labels, Unproven, Words, repeated
from modeconn_cli.engine.symmetry.registry import PLACEWISE, RULES, Notes, Step
from modeconn_cli.engine.symmetry.tensors import Labelled, from_axes, split

OUTPUT = "its units are the model's outputs"
INPUT = "it is an axis of the model's input"
TABLE = "a table that is computed in forward is tied to it"
UNREAD = "inputs of this size do not read it, others may"
OUTSIDE = "a tensor outside the state dict is tied to it and cannot be permuted"

# Operations that make no tensor and do not see an order: sizes, checks, the number in a tensor of one element.
NUMBERS = ("sym_", "_assert", "item", "_local_scalar_dense")


@dataclass(frozen=True)
class LabelledGraph:
    """A graph after the walk."""

    labels: Labels
    notes: Notes
    tensors: Mapping[str, list[Words]]  # state-dict name -> the words of its axes; tied names share theirs
    values: Mapping[fx.Node, Any]  # what a node stands for: a labelled tensor, several, or a number


def label(graph: Graph) -> LabelledGraph:
    """Label every axis of every tensor in `graph`.

    Where two parts of one cut axis turn out to move alike (`a, gate = h.chunk(2); a * gate`), one label stands
    for several elements of that axis. The walk is then done again with parts told apart at that cut.
    """
    tagged: frozenset[str] = frozenset()
    while True:
        labelled = _Walk(graph, tagged).run()
        labels = labelled.labels
        found = set()
        for key, words in labelled.notes.seams.items():
            expanded = labels.expand(words)
            free = ~labels.frozen(expanded).all(axis=1)
            if free.any() and (repeated(expanded) & free).any():
                found.add(key)
        if found <= tagged:
            return labelled
        tagged |= found


class _Walk:
    def __init__(self, graph: Graph, tagged: frozenset[str]) -> None:
        self.graph = graph
        self.tagged = tagged
        self.notes = Notes()
        self.labels = self.notes.labels
        self.values: dict[fx.Node, Any] = {}
        self.layers: dict[fx.Node, tuple[str, ...]] = {}  # weights and what is computed from weights alone
        self.tensors: dict[str, Labelled] = {}
        self.tables: set[fx.Node] = set()  # what is computed neither from the input nor from the state dict
        self.recorded: dict[int, Words] = {}  # holds the arrays, so that no id is used twice

    def run(self) -> LabelledGraph:
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
                continue
            if node.op == "output":
                outputs = self._read(node.args[0])
                break
            if node.op == "get_attr":
                self._set(node, self._still(getattr(self.graph.module, str(node.target)), OUTSIDE))
            else:
                self._set(node, self._apply(node))
            self._keep_table(node)
            inputs = node.all_input_nodes
            if inputs and all(source in self.layers for source in inputs):
                self.layers[node] = self.layers[inputs[0]]
        for x in labelled_in(outputs):
            for words in split(self.labels, x):
                self.labels.freeze(words, OUTPUT)
        self._freeze_unread()
        named = {name: self.tensors.get(self.graph.canonical(name)) for name in self.graph.shapes}
        tensors = {name: split(self.labels, x) for name, x in named.items() if x is not None}
        self.labels.settle()
        return LabelledGraph(self.labels, self.notes, tensors, self.values)

    def _freeze_unread(self) -> None:
        """Freeze what all readers of a weight leave out: positions beyond those of the example, a mask's margin."""
        for (source, _), cuts in self.notes.cuts.items():
            if {cut.by for cut in cuts} >= source.users.keys():
                read = np.concatenate([cut.index for cut in cuts])
                whole = cuts[0].whole
                self.labels.freeze(whole[np.setdiff1d(np.arange(len(whole)), read)], UNREAD)

    def _placeholder(self, node: fx.Node) -> None:
        shape = shape_of(node.meta.get("val"))
        if shape is None or not node.users:
            self.values[node] = None
            return
        name = self.graph.tensors.get(node.name)
        if name is None:
            outside = node.name in self.graph.constants
            self._set(node, self._still(node.meta["val"], OUTSIDE if outside else INPUT))
            if outside:
                self.tables.add(node)
            return
        names = self.graph.tied[name]
        if names[0] not in self.tensors:
            self.tensors[names[0]] = from_axes(self.labels.fresh(size) for size in shape)
        self.layers[node] = tuple(dict.fromkeys(layer_of(each) for each in names))
        self._set(node, self.tensors[names[0]])

    def _keep_table(self, node: fx.Node) -> None:
        """Keep copies of numbered elements in order where a table is computed, such as an angle for a pair of entries.

        That they can be exchanged is of no use, and what the table is multiplied with would have to be laid out alike.
        """
        if any(
            source not in self.tables and labelled_in(self.values.get(source))
            for source in node.all_input_nodes
        ):
            return
        self.tables.add(node)
        for x in labelled_in(self.values[node]):
            for block in x.blocks:
                words = self.labels.expand(block.flat)
                still = self.labels.frozen(words)
                mixed = ~still.all(axis=1) & (still & (words != NOTHING)).any(axis=1)
                self.labels.freeze(words[mixed], TABLE)

    def _apply(self, node: fx.Node) -> object:
        if node.target is operator.getitem:
            self.notes.mixed[node] = []
            return self._read(node.args[0])[node.args[1]]
        if not isinstance(node.target, torch._ops.OpOverload) and not is_opaque(node):
            return None  # Python's arithmetic on sizes
        step = Step(node, self.notes, _shapes(node), node.name in self.tagged, self.layers)
        if not step.shapes and step.operation.startswith(NUMBERS):
            return None
        try:
            return self._ruled(step)
        except Unproven as unproven:
            return self._frozen(step, str(unproven))

    def _ruled(self, step: Step) -> object:
        if step.operation not in RULES:
            raise Unproven(f"{step.name} has no symmetry rule")
        inputs = [self.values.get(source) for source in step.node.all_input_nodes]
        if any(0 in shape for shape in (*step.shapes, *(x.shape for x in labelled_in(inputs)))):
            raise Unproven(f"{step.name} handles an empty tensor")
        if step.operation in PLACEWISE:
            self.notes.mixed[step.node] = []
        result = RULES[step.operation](step, **self._arguments(step.node))
        if isinstance(result, Labelled) and len(step.shapes) > 1:
            result = [result] * len(step.shapes)
        found = tuple(x.shape for x in labelled_in(result))
        if found != step.shapes:
            raise Unproven(f"the symmetry rule of {step.name} gives {found} for {step.shapes}")
        return result

    def _frozen(self, step: Step, reason: str) -> object:
        """Freeze what an operation reads. Then it sees what it always saw, and needs no proof."""
        free = False
        for x in labelled_in([self.values.get(source) for source in step.node.all_input_nodes]):
            for block in x.blocks:
                free |= not self.labels.frozen(self.labels.expand(block.flat)).all()
                self.labels.freeze(block.flat, reason)
        if free and reason not in self.notes.unproven:
            self.notes.unproven.append(reason)
        return pytree.tree_map(lambda each: self._still(each, reason), step.node.meta.get("val"))

    def _still(self, val: object, reason: str) -> Labelled | None:
        """A labelled tensor none of whose axes may move; None for what is no tensor."""
        shape = shape_of(val)
        return from_axes(self.labels.fixed(size, reason) for size in shape) if shape is not None else None

    def _arguments(self, node: fx.Node) -> dict[str, Any]:
        """An operation's arguments by the names of its ATen schema, defaults included."""
        bound: dict[str, Any] = {}
        for index, argument in enumerate(schema(node).arguments):
            name = "x" if argument.name in ("self", "input") else argument.name
            if index < len(node.args):
                bound[name] = self._read(node.args[index])
            elif argument.name in node.kwargs:
                bound[name] = self._read(node.kwargs[argument.name])
            elif argument.has_default_value():
                bound[name] = argument.default_value
        return bound

    def _read(self, argument: Any) -> Any:
        """An argument with what its nodes stand for: numbers and labelled tensors."""
        return fx.map_arg(argument, self._read_node)

    def _read_node(self, node: fx.Node) -> Any:
        val = node.meta.get("val")
        if isinstance(val, torch.SymInt) and not val.node.has_hint():
            raise Unproven(f"the number {node.name} is computed from values")
        return concrete(val) if isinstance(val, (int, torch.SymInt)) else self.values[node]

    def _set(self, node: fx.Node, value: Any) -> None:
        self.values[node] = value
        for x in labelled_in(value):
            for block in x.blocks:
                if id(block.words) not in self.recorded:
                    self.recorded[id(block.words)] = block.words
                    self.notes.axes.append(block.flat)


def layer_of(name: str) -> str:
    """The module path of a weight, or the tensor's own name where it is not called a weight."""
    if ".parametrizations." in name:
        return name.split(".parametrizations.")[0]
    path, _, last = name.rpartition(".")
    return path if path and "weight" in last else name


def labelled_in(found: object) -> list[Labelled]:
    """All labelled tensors among what is found."""
    return [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Labelled)]


def _shapes(node: fx.Node) -> tuple[tuple[int, ...], ...]:
    """Shapes of the tensors that a node computes; none where it computes a number or nothing."""
    val = node.meta.get("val")
    shapes = []
    for each in val if isinstance(val, (tuple, list)) else [val]:
        if not isinstance(each, Tensor):
            continue
        if any(isinstance(size, torch.SymInt) and not size.node.has_hint() for size in each.shape):
            raise InputError(
                f"the shape of {node.name} (aten.{operation(node)}, {location(node)}) depends on values",
                "symmetries are read off models whose shapes follow from the input's shape",
            )
        shapes.append(tuple(concrete(size) for size in each.shape))
    return tuple(shapes)
