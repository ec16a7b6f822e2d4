"""Activation matching: the permutation of one network's units under which they act most like another's.

Li et al. 2015 (arXiv:1511.07543). Two units are as alike as their activations correlate over samples and positions,
after the nonlinearity; of a group without one, where its layers give it. What several places of a network say of one
group is added. A unit that never changes correlates with none. Data are streamed: of each place the memory holds one
matrix for each two networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.activations import nonlinearities
from modeconn_cli.engine.networks.activations.sites import LAYERS
from modeconn_cli.engine.networks.flat import Runner
from modeconn_cli.engine.networks.graph import Graph, operation
from modeconn_cli.engine.symmetry.groups import Group, Places, Symmetry
from modeconn_cli.engine.symmetry.match import Order, Orders, Similarity, assigned
from modeconn_cli.engine.symmetry.permutation import permute

MOST_ROUNDS = 100
ROUNDING = 1e-9  # of a sum of correlations: a smaller gain is none


@dataclass
class _Moments:
    """Means, variances and products of the elements of two networks at one place, over all rows so far, in float64."""

    count: int = 0
    mean: list[Tensor] = field(default_factory=list)  # of each network, [elements]
    square: list[Tensor] = field(default_factory=list)  # Σ (x − mean)²
    product: Tensor | None = None  # Σ (a − mean a)(b − mean b), [elements, elements]

    def add(self, both: tuple[Tensor, Tensor]) -> None:
        """Further rows, each [elements, rows], centred by their own means; what these differ by is added."""
        rows = both[0].shape[1]
        means = [each.double().mean(1) for each in both]
        centred = [each - mean[:, None].to(each.dtype) for each, mean in zip(both, means, strict=True)]
        squares = [each.double().square().sum(1) for each in centred]
        product = (centred[0] @ centred[1].T).double()
        if self.product is None:
            self.count, self.mean, self.square, self.product = rows, means, squares, product
            return
        share = self.count * rows / (self.count + rows)
        apart = [new - old for new, old in zip(means, self.mean, strict=True)]
        self.product += product + share * torch.outer(*apart)
        for k, (square, gap) in enumerate(zip(squares, apart, strict=True)):
            self.square[k] += square + share * gap.square()
            self.mean[k] += gap * rows / (self.count + rows)
        self.count += rows

    def correlation(self) -> Similarity:
        """[i, j]: element i of the first network with element j of the second; 0 where one of them never changes."""
        assert self.product is not None
        scales = []
        for mean, square in zip(self.mean, self.square, strict=True):
            tiny = 1e-12 * self.count * mean.square()  # what rounding leaves of a constant
            scales.append(torch.where(square > tiny, square.rsqrt(), 0.0))
        return (self.product * scales[0][:, None] * scales[1]).cpu().numpy()


@dataclass(frozen=True, eq=False)
class Place:
    """Where groups lie along axes of what a node computes: `units` says on which elements of these axes, flattened.

    Of a group alone an element is a unit, and its places are further rows; where groups cross (heads and their
    entries) elements are kept apart. `beside` are groups on other axes of the node.
    """

    node: fx.Node
    axes: tuple[int, ...]
    units: Mapping[Group, Places]
    beside: frozenset[Group]

    def laid_out(self, value: Tensor) -> Tensor:
        """[elements, rows]."""
        value = value.float() if value.dtype.itemsize < 4 else value
        flat = value.movedim(self.axes, tuple(range(len(self.axes)))).flatten(0, len(self.axes) - 1)
        if len(self.units) > 1:
            return flat.flatten(1).clone()
        (places,) = self.units.values()
        taken = flat.index_select(0, torch.from_numpy(places.reshape(-1)).to(value.device))
        return taken.reshape(len(places), -1)

    def similarity(
        self, group: Group, alike: Similarity, first: Mapping[Group, Order], second: Mapping[Group, Order]
    ) -> Similarity:
        """[i, j]: the mean correlation of unit j of the second network with unit i of the first, other groups being in
        the order that they have in either; one that is not named is as it is.
        """
        if len(self.units) == 1:
            return alike
        rows, columns = (self._moved(orders, group)[self.units[group]] for orders in (first, second))
        mean: Similarity = alike[rows[:, None, :], columns[None, :, :]].mean(2)
        return mean

    def _moved(self, orders: Mapping[Group, Order], but: Group) -> Places:
        """Which element comes to the place of each."""
        whole = np.arange(1 + max(int(places.max()) for places in self.units.values()))
        for group, places in self.units.items():
            if group is not but and group in orders:
                whole[places] = whole[places[orders[group]]]
        return whole


def _places(symmetry: Symmetry, node: fx.Node) -> list[Place]:
    """The places at a node; groups that cross share one."""
    found = list(symmetry.seen(node))
    out = []
    while found:
        group, axes, places = found.pop(0)
        units = {group: places}
        for other, its, where in list(found):
            if its == axes and any(np.intersect1d(where, each).size for each in units.values()):
                units[other] = where
                found = [each for each in found if each[0] is not other or each[1] != axes]
        out.append((axes, units))
    return [
        Place(node, axes, units, frozenset(g for its, there in out if its != axes for g in there))
        for axes, units in out
    ]


def _find(symmetry: Symmetry, graph: Graph) -> list[Place]:
    """Behind nonlinearities; of a group that meets none where layers make it, else where it is met first."""
    curved, _ = nonlinearities.find(graph)
    fixed = graph.made_of()
    nodes = [node for node in graph.nodes if node.op == "call_function" and node not in fixed]
    every = [place for node in nodes for place in _places(symmetry, node)]
    out = [place for place in every if place.node in curved]
    made = [place for place in every if operation(place.node) in LAYERS]
    for others in (made, every):
        met = {group for place in out for group in place.units}
        out += [place for place in others if not met.issuperset(place.units)]
    return out


class _Recorder(Runner):
    """Runs the graph and lays out what is at the places, before anything overwrites it."""

    def __init__(self, graph: Graph, places: Iterable[Place]) -> None:
        super().__init__(graph.module)
        self._graph = graph
        self._at: dict[fx.Node, list[Place]] = {}
        for place in places:
            self._at.setdefault(place.node, []).append(place)
        self._found: dict[Place, Tensor] = {}

    @torch.no_grad()
    def of(self, state: Mapping[str, Tensor], images: Tensor) -> dict[Place, Tensor]:
        self._found = {}
        self.run(*self._graph.arguments(state, images).values())
        return self._found

    def compute(self, n: fx.Node) -> Any:
        out = super().compute(n)
        for place in self._at.get(n, ()):
            self._found[place] = place.laid_out(out)
        return out


@dataclass(frozen=True)
class Phase:
    """Groups that can be matched by now, the places that they are met at, and how alike the elements there are.

    `alike`, by the numbers of two networks, the lower one first, and by place: [i, j] is the correlation of element i
    of the one with element j of the other. Orders are of the groups that are due; others have been brought into order.
    """

    due: tuple[Group, ...]
    places: tuple[Place, ...]
    alike: Mapping[tuple[int, int], Mapping[Place, Similarity]]

    @property
    def as_they_are(self) -> Orders:
        return {group: np.arange(group.size) for group in self.due}

    @property
    def crossing(self) -> list[Group]:
        """The groups whose best order depends on that of another."""
        return [
            g for g in self.due if any(g in place.units and len(place.units) > 1 for place in self.places)
        ]

    def between(self, one: int, other: int, place: Place) -> Similarity:
        """[i, j]: the correlation of element i of network `one` with element j of network `other`."""
        return self.alike[one, other][place] if one < other else self.alike[other, one][place].T

    def similarity(self, group: Group, one: int, other: int, orders: tuple[Orders, Orders]) -> Similarity:
        """[i, j]: how alike unit i of `one` and unit j of `other` are, their other groups being in these orders."""
        at = [place for place in self.places if group in place.units]
        found = (place.similarity(group, self.between(one, other, place), *orders) for place in at)
        return sum(found, np.zeros(())) / len(at)

    def paired(self, group: Group, one: int, other: int, orders: tuple[Orders, Orders]) -> float:
        """The mean correlation of the units of two networks that have one place."""
        rows, columns = (each[group] for each in orders)
        return float(self.similarity(group, one, other, orders)[rows, columns].mean())

    def matched(self, one: int, other: int) -> Orders:
        """The orders under which `other` is most like `one`, which stays as it is.

        Groups that cross are matched in turn, first the units of the larger blocks under the best order of what is
        inside.
        """
        stays, orders = self.as_they_are, self.as_they_are
        for group in self.due:
            at = [(place, self.between(one, other, place)) for place in self.places if group in place.units]
            blocks = [_blocks(place, group, self.due, alike) for place, alike in at]
            nested = [each for each in blocks if each is not None]
            orders[group] = assigned(
                sum(nested, np.zeros(())) if nested else self.similarity(group, one, other, (stays, orders))
            )
        crossing = self.crossing
        for _ in range(MOST_ROUNDS if crossing else 0):
            gains = [
                _reorder(group, self.similarity(group, one, other, (stays, orders)), orders)
                for group in crossing
            ]
            if sum(gains) == 0:
                break
        return orders

    def improve(self, orders: list[Orders]) -> float:
        """Match every network to all others in its turn, whose orders are changed; what the sum over pairs gains."""
        gain = 0.0
        for k, own in enumerate(orders):
            for group in self.due:
                alike = np.zeros((group.size, group.size))
                for j, other in enumerate(orders):
                    if j != k:
                        alike += self.similarity(group, j, k, (other, own))[other[group]]
                gain += _reorder(group, alike, own)
        return gain


def phases(
    symmetry: Symmetry,
    graph: Graph,
    networks: Sequence[Mapping[str, Tensor]],
    orders: Sequence[Mapping[Group, Order]],
    batches: Callable[[], Iterable[Tensor]],
) -> Iterator[Phase]:
    """One phase after the other, as a rule there is one. The caller puts what it finds into the `orders` of the
    networks: a group that is met beside others alone waits for their order.

    `networks` are whole state dicts in the names of the traced network, on the device of the `batches`, which are asked
    for once in a phase. Raises InputError where that leads nowhere.
    """
    every, left = _find(symmetry, graph), set(symmetry.groups)
    while left:
        places = tuple(place for place in every if left & place.units.keys() and not left & place.beside)
        due = tuple(g for g in symmetry.groups if g in left and any(g in place.units for place in places))
        if not due:
            named = next(group for group in symmetry.groups if group in left)
            raise InputError(f"the units of '{named.layer}' are nowhere met alone", "match them by weights")
        moved = [permute(*each) for each in zip(networks, orders, strict=True)]
        yield Phase(due, places, _correlations(graph, places, moved, batches()))
        left -= set(due)


def by_activations(
    symmetry: Symmetry,
    graph: Graph,
    fixed: Mapping[str, Tensor],
    moving: Mapping[str, Tensor],
    batches: Callable[[], Iterable[Tensor]],
) -> tuple[Orders, float]:
    """The order of each group's units, and the mean correlation of the units that are paired.

    Arguments as of `phases`.
    """
    orders, reached = Orders(), dict[Group, float]()
    for phase in phases(symmetry, graph, (fixed, moving), ({}, orders), batches):
        found = phase.matched(0, 1)
        reached |= {group: phase.paired(group, 0, 1, (phase.as_they_are, found)) for group in phase.due}
        orders |= found
    return {group: orders[group] for group in symmetry.groups}, mean_over_units(reached)


def mean_over_units(values: Mapping[Group, float]) -> float:
    """The mean of a value that each group has, over all units."""
    return float(np.average(list(values.values()), weights=[group.size for group in values]))


def _correlations(
    graph: Graph,
    places: Sequence[Place],
    networks: Sequence[Mapping[str, Tensor]],
    batches: Iterable[Tensor],
) -> dict[tuple[int, int], dict[Place, Similarity]]:
    recorder = _Recorder(graph, places)
    pairs = itertools.combinations(range(len(networks)), 2)
    moments = {pair: {place: _Moments() for place in places} for pair in pairs}
    for images in batches:
        seen = [recorder.of(state, images) for state in networks]
        for (one, other), of_pair in moments.items():
            for place, each in of_pair.items():
                each.add((seen[one][place], seen[other][place]))
    found = {
        pair: {place: each.correlation() for place, each in of_pair.items()}
        for pair, of_pair in moments.items()
    }
    for place, alike in ((place, alike) for of_pair in found.values() for place, alike in of_pair.items()):
        if not np.isfinite(alike).all():
            layer = next(iter(place.units)).layer
            raise InputError(f"the activations of '{layer}' are not finite", "match them by weights")
    return found


def _reorder(group: Group, alike: Similarity, orders: Orders) -> float:
    """Give a group the best order, if it is better than the one there is; what it gains."""
    new, units = assigned(alike), np.arange(group.size)
    gain = float((alike[units, new] - alike[units, orders[group]]).sum())
    if gain <= ROUNDING:
        return 0.0
    orders[group] = new
    return gain


def _blocks(place: Place, group: Group, due: Sequence[Group], alike: Similarity) -> Similarity | None:
    """[i, j]: how alike block j is to block i under the best order of its entries, of the group that comes later."""
    inside = [other for other in place.units if other is not group and other in due[due.index(group) :]]
    if len(inside) != 1 or len(place.units) != 2:
        return None
    ours, theirs = place.units[group], place.units[inside[0]]
    common = [[np.intersect1d(one, two) for two in theirs] for one in ours]
    if any(each.size != common[0][0].size or not each.size for row in common for each in row):
        return None
    at = np.array(common)  # (units, entries, the rest)
    out = np.empty((group.size, group.size))
    for i in range(group.size):
        for j in range(group.size):
            entries = alike[at[i][:, None, :], at[j][None, :, :]].mean(2)
            out[i, j] = entries[np.arange(len(entries)), assigned(entries)].mean()
    return out
