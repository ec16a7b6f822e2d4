"""What a symmetry rule is, and the table of all rules.

A rule says, for one ATen operation, which elements of its inputs and outputs must be permuted alike. To add one,
write a short function with the operation's own argument names (`self` and `input` are called `x`; take what you
need and leave the rest to `**_`) that returns the labelled output:

    @rule("softmax", "log_softmax")
    def softmax(step: Step, x: Labelled, dim: int, **_: object) -> Labelled:
        return step.apart(x, [dim])          # a sum over one axis, then element by element

It may assume that each axis of its inputs is permuted by some permutation of equal words, and must make sure that
permuting the inputs permutes the outputs by theirs. Four tools: `equate` (move alike), `freeze` (stay), `fresh` (a
new axis that may move) and `fixed` (a new axis that may not). Every axis of every output is recorded by the walk:
whatever moves must map that axis onto itself, so a slice or a selected element needs no further care.

Units that are blocks (heads) may hold units in an order of their own in each (`nested`). That is read off which axes
an operation mixes: sums over, normalises over, reads as a whole. A rule says so of each input (`mixes`), or is
`placewise`, where every element is computed from elements in equal places or only moved. Nothing is nested under a
rule that says neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import fx

from modeconn_cli.engine.networks.graph import location, operation, schema
from modeconn_cli.engine.symmetry.labels import Labels, Words
from modeconn_cli.engine.symmetry.tensors import Labelled, apart, split

Shape = tuple[int, ...]
Rule = Callable[..., Any]  # (step, **arguments) -> Labelled; a list where several outputs differ in shape
F = TypeVar("F", bound=Rule)

RULES: dict[str, Rule] = {}
PLACEWISE: set[str] = set()  # operations that mix no elements


def rule(*names: str, placewise: bool = False) -> Callable[[F], F]:
    """Register a function for the ATen operations of these names, all overloads, in place or not."""

    def register(function: F) -> F:
        for name in names:
            if name in RULES:
                raise ValueError(f"two symmetry rules for aten.{name}")
            RULES[name] = function
            if placewise:
                PLACEWISE.add(name)
        return function

    return register


@dataclass(frozen=True)
class Cut:
    """Elements `index` of an axis with the words `whole`, which an operation takes."""

    by: fx.Node
    whole: Words
    index: Words


@dataclass(frozen=True, eq=False)
class Mixed:
    """Axes of an input along which an operation mixes elements, each factor of their words but those in `kept`."""

    x: Labelled
    axes: frozenset[int]
    kept: Words | None = None


@dataclass
class Notes:
    """What one walk over a graph writes down."""

    labels: Labels = field(default_factory=Labels)
    axes: list[Words] = field(default_factory=list)  # every axis of every tensor met
    producers: dict[str, Words] = field(default_factory=dict)  # module path -> words of its output axis
    seams: dict[str, Words] = field(default_factory=dict)  # node -> an axis it cuts or glues
    unproven: list[str] = field(default_factory=list)  # why operations had all their inputs frozen
    cuts: dict[tuple[fx.Node, int], list[Cut]] = field(default_factory=dict)  # of an axis of a weight
    mixed: dict[fx.Node, list[Mixed]] = field(
        default_factory=dict
    )  # by operation; what is not there is not known


@dataclass(frozen=True)
class Step:
    """One operation of the graph, as its rule sees it."""

    node: fx.Node
    notes: Notes
    shapes: tuple[Shape, ...]  # of the outputs
    tagged: bool  # whether this node must tell the parts it cuts or glues apart (see `walk`)
    layers: Mapping[fx.Node, tuple[str, ...]]  # the modules whose weight a node is

    @property
    def shape(self) -> Shape:
        return self.shapes[0]

    @property
    def labels(self) -> Labels:
        return self.notes.labels

    @property
    def operation(self) -> str:
        return operation(self.node)

    @property
    def name(self) -> str:
        """The operation and where the model calls it, as messages name it."""
        place = location(self.node)
        named = self.operation if "::" in self.operation else f"aten.{self.operation}"
        return f"{named} ({place})" if place else named

    def split(self, x: Labelled) -> list[Words]:
        """The words of every axis on its own."""
        return split(self.labels, x)

    def apart(self, x: Labelled, axes: Iterable[int]) -> Labelled:
        """`x` with each of these axes (negative from the end) labelled on its own."""
        rank = len(x.shape)
        return apart(self.labels, x, [axis % rank for axis in axes])

    def equate(self, first: Words, *others: Words) -> None:
        """Demand that all these axes are permuted alike."""
        for other in others:
            self.labels.equate(first, other)

    def carry(self, words: Words, *vectors: Labelled | None) -> None:
        """Demand that tensors of one axis, such as a bias, are permuted like an axis with these words."""
        self.equate(words, *(self.split(vector)[0] for vector in vectors if vector is not None))

    def fresh(self, size: int) -> Words:
        return self.labels.fresh(size)

    def fixed(self, size: int, reason: str = "") -> Words:
        return self.labels.fixed(size, reason or f"{self.name} puts its output in order")

    def mark(self, size: int = 1) -> Words:
        """Frozen labels that tell the parts of an axis apart, (size, 1); never the reason why a unit stays."""
        return self.labels.fixed(size, "")

    def freeze(self, *axes: Words, reason: str = "") -> None:
        for words in axes:
            self.labels.freeze(words, reason or f"{self.name} reads its input in order")

    def record(self, words: Words) -> None:
        """Demand that whatever moves maps these elements onto themselves; outputs are recorded by the walk."""
        self.notes.axes.append(words)

    def produces(self, weight: str, words: Words) -> None:
        """Say that the operation makes a new axis out of the weight given as argument `weight`."""
        index = [argument.name for argument in schema(self.node).arguments].index(weight)
        source = self.node.args[index] if index < len(self.node.args) else self.node.kwargs[weight]
        if isinstance(source, fx.Node):
            for layer in self.layers.get(source, ()):
                self.notes.producers.setdefault(layer, words)

    def mixes(self, x: Labelled | None, *axes: int, kept: Words | None = None) -> None:
        """Say that elements of an input, as it was given, are mixed along these axes and no others.

        Along all other axes the operation does the same to each element. Of words (group, inner) that are mixed within
        a group only, the groups are `kept`.
        """
        known = self.notes.mixed.setdefault(self.node, [])
        if x is not None:
            known.append(Mixed(x, frozenset(axis % len(x.shape) for axis in axes), kept))

    def seam(self, words: Words) -> None:
        """Remember an axis that is cut or glued here, in case its parts turn out to hold the same labels."""
        self.notes.seams[self.node.name] = words
