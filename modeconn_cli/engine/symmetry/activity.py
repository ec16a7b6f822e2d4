"""Activation matching: the permutation of one network's units under which they act most like another's.

Li et al. 2015 (arXiv:1511.07543). Two units are as alike as their activations correlate over samples and positions,
after the nonlinearity; of a group without one, where its layers give it. What several places of a network say of one
group is added. A unit that never changes correlates with none. Data are streamed: of each place the memory holds one
matrix for each two networks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, fx

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.activations import nonlinearities
from modeconn_cli.engine.networks.activations.sites import LAYERS
from modeconn_cli.engine.networks.flat import Runner
from modeconn_cli.engine.networks.graph import Graph, operation, shape_of
from modeconn_cli.engine.symmetry.blocks import assigned, parts
from modeconn_cli.engine.symmetry.groups import Group, Move, Places, Symmetry
from modeconn_cli.engine.symmetry.pair import Order, Orders, Part, Similarity, Use
from modeconn_cli.engine.symmetry.permutation import identity, permute

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
        """[i, j]: the mean correlation of unit j of the second network with what the first has in the place of unit i.

        Groups are in the order that they have in either; one that is not named is as it is. Of units within blocks one
        such matrix for each of these.
        """
        if len(self.units) == 1:
            return alike[first[group]] if group in first else alike
        places = self.units[group]
        rows, columns = self.moved(first)[places], self.moved(second, group)[places]
        blocks = np.zeros(places.shape[1], dtype=np.int64) if group.within is None else self._blocks(group)
        out = np.empty((int(blocks.max()) + 1, group.size, group.size))
        for block in range(len(out)):
            here = blocks == block
            out[block] = alike[rows[:, None, here], columns[None, :, here]].mean(2)
        return out if group.within is not None else out[0]

    def paired(
        self, group: Group, alike: Similarity, first: Mapping[Group, Order], second: Mapping[Group, Order]
    ) -> float:
        """The mean correlation of a group's units that have one place."""
        if len(self.units) == 1:
            return float(alike[first[group], second[group]].mean())
        places = self.units[group]
        return float(alike[self.moved(first)[places], self.moved(second)[places]].mean())

    def apart(self, group: Group, inner: frozenset[Group]) -> list[Part]:
        """The elements of a group's units taken apart by units that are inside; none where that is impossible."""
        return parts(self._uses[group], inner) or []

    def moved(self, orders: Mapping[Group, Order], *but: Group) -> Places:
        """Which element comes to the place of each, of groups that have an order, blocks before what is within them."""
        whole = np.arange(self._length)
        for group, places in sorted(self.units.items(), key=lambda each: each[0].within is not None):
            if group in but or group not in orders:
                continue
            order = orders[group]
            if order.ndim == 1:
                whole[places] = whole[places[order]]
            else:
                whole[places] = whole[places[order[self._blocks(group)].T, np.arange(places.shape[1])]]
        return whole

    @cached_property
    def _length(self) -> int:
        return 1 + max(int(places.max()) for places in self.units.values())

    @cached_property
    def _uses(self) -> dict[Group, Use]:
        moves = {group: Move("", 0, self._length, places) for group, places in self.units.items()}
        return {
            group: Use(move, tuple(each for each in moves.items() if each[0] is not group), 0)
            for group, move in moves.items()
        }

    def _blocks(self, group: Group) -> Places:
        """The block of each place of units that are within blocks."""
        assert group.within is not None
        around = self.units[group.within]
        block = np.full(self._length, -1)
        block[around] = np.arange(len(around))[:, None]
        return np.asarray(block[self.units[group][0]])


def _places(symmetry: Symmetry, node: fx.Node) -> list[Place]:
    """The places at a node; groups that cross share one, and units share it with the blocks that they are within."""
    value = node.meta.get("val")
    found = _with_blocks(list(symmetry.seen(node)), shape_of(value) or ())
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


def _with_blocks(
    found: list[tuple[Group, tuple[int, ...], Places]], shape: Sequence[int]
) -> list[tuple[Group, tuple[int, ...], Places]]:
    """Groups along axes, units and the blocks they are within along the same, where these lie along others."""
    out = list(found)
    for group, axes, places in found:
        around = [each for each in found if each[0] is group.within]
        if group.within is None or any(its == axes for _, its, _ in around):
            continue
        out = [each for each in out if each[0] not in (group, group.within)]
        for blocks, its, where in around:
            size = math.prod(shape[axis] for axis in axes)
            both = (where[:, None, :, None] * size + places[None, :, None, :]).reshape(
                *map(len, (where, places)), -1
            )
            out.append((blocks, its + axes, both.reshape(len(where), -1)))
            out.append((group, its + axes, both.swapaxes(0, 1).reshape(len(places), -1)))
    return out


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


class _Recorder:
    """Runs the graph and lays out what is at the places."""

    def __init__(self, graph: Graph, places: Iterable[Place]) -> None:
        self._graph, self._runner = graph, Runner(graph.module)
        self._at: dict[fx.Node, list[Place]] = {}
        for place in places:
            self._at.setdefault(place.node, []).append(place)

    def of(self, state: Mapping[str, Tensor], images: Tensor) -> dict[Place, Tensor]:
        steps = self._runner.steps(*self._graph.arguments(state, images).values())
        return {place: place.laid_out(out) for node, out in steps for place in self._at.get(node, ())}


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
        return {group: identity(group) for group in self.due}

    def between(self, one: int, other: int, place: Place) -> Similarity:
        """[i, j]: the correlation of element i of network `one` with element j of network `other`."""
        return self.alike[one, other][place] if one < other else self.alike[other, one][place].T

    def paired(self, group: Group, one: int, other: int, orders: tuple[Orders, Orders]) -> float:
        """The mean correlation of the units of two networks that have one place."""
        at = self._met(group)
        return float(np.mean([place.paired(group, self.between(one, other, place), *orders) for place in at]))

    def matched(self, one: int, other: int) -> Orders:
        """The orders under which `other` is most like `one`, which stays as it is.

        Groups that cross are matched in turn, first the units of the larger blocks under the best order of what is
        inside.
        """
        orders, stays = self.as_they_are, {one: self.as_they_are}
        for k, group in enumerate(self.due):
            if group.within not in self.due:
                orders |= self._best(group, other, orders, stays, self.due[k + 1 :])
        crossing = [group for group in self.due if any(len(p.units) > 1 for p in self._met(group))]
        for _ in range(MOST_ROUNDS if crossing else 0):
            if sum([self._improve(group, other, orders, stays) for group in crossing]) == 0:
                break
        return orders

    def improve(self, orders: list[Orders]) -> float:
        """Match every network to all others in its turn, whose orders are changed; what the sum over pairs gains."""
        gain = 0.0
        for k, own in enumerate(orders):
            others = {j: each for j, each in enumerate(orders) if j != k}
            gain += sum([self._improve(group, k, own, others) for group in self.due])
        return gain

    def _met(self, group: Group) -> list[Place]:
        return [place for place in self.places if group in place.units]

    def _improve(self, group: Group, k: int, own: Orders, others: Mapping[int, Orders]) -> float:
        """Give a group of network k, and what is within its units, the best order, if it is better; what it gains."""
        near = {each for place in self._met(group) for each in place.units}

        def reached(orders: Orders) -> float:
            return sum(
                each.size * self.paired(each, other, k, (its, orders))
                for each in self.due
                if each in near
                for other, its in others.items()
            )

        found = self._best(group, k, own, others)
        gain = reached(own | found) - reached(own)
        if gain <= ROUNDING:
            return 0.0
        own |= found
        return gain

    def _best(
        self,
        group: Group,
        k: int,
        own: Orders,
        others: Mapping[int, Orders],
        later: Sequence[Group] = (),
    ) -> Orders:
        """The order of a group of network k under which its units are most like those of the others, and the orders of
        what is within its units.

        Units are compared under the best order of what is within them, and of groups that come `later`, for each two.
        Where no place says anything of that alone, units within blocks go along as they are ordered in these.
        """
        nested = [each for each in self.due if each.within is group]
        orders = {**own, **{each: own[each][np.argsort(own[group])] for each in nested}}
        direct, of_inner = self._inside(group, k, orders, others, frozenset([*nested, *later]))
        best = {inner: _assigned(found) for inner, found in of_inner.items()}
        if not best:
            direct = self._similarity(group, k, orders, others)
        for inner, order in best.items():
            direct = direct + _paired(of_inner[inner], order).sum(-1)
        found = {group: _assigned(direct)}
        for inner in nested:
            if inner in best:
                found[inner] = best[inner][np.arange(group.size), found[group]]
            else:
                found[inner] = orders[inner][found[group]]
        return found

    def _similarity(self, group: Group, k: int, own: Orders, others: Mapping[int, Orders]) -> Similarity:
        """[i, j]: how alike unit j of network k is to those that others have in place i; their mean over places."""
        at = self._met(group)
        each = [
            place.similarity(group, self.between(other, k, place), orders, own)
            for other, orders in others.items()
            for place in at
        ]
        return sum(each, np.zeros(())) / len(at)

    def _inside(
        self, group: Group, k: int, own: Orders, others: Mapping[int, Orders], inside: frozenset[Group]
    ) -> tuple[Similarity, dict[Group, Similarity]]:
        """How alike units of a group are in elements that nothing `inside` orders; and in others, by what does: [i, j,
        a, b] says it of b in unit j of network k and of a in what the others have in place i.
        """
        size = group.size
        direct, of_inner = np.zeros((size, size)), dict[Group, Similarity]()
        if group.within is not None or not any(
            inside.intersection(place.units) for place in self._met(group)
        ):
            return direct, of_inner
        for place, (other, orders) in itertools.product(self._met(group), others.items()):
            alike = self.between(other, k, place)
            if len(place.units) == 1:
                direct += place.units[group].shape[1] * place.similarity(group, alike, orders, own)
                continue
            first, second = place.moved(orders), place.moved(own, group, *inside)
            for part in place.apart(group, inside.intersection(place.units)):
                elements = part.elements.reshape(-1, part.elements.shape[-1])
                if len(part.inner) > 1:
                    continue
                found = sum((alike[np.ix_(first[each], second[each])] for each in elements.T), np.zeros(()))
                if not part.inner:
                    direct += found
                    continue
                (inner,) = part.inner
                shaped = found.reshape(size, inner.size, size, inner.size).transpose(0, 2, 1, 3)
                of_inner[inner] = of_inner.get(inner, np.zeros(())) + shaped
        return direct, of_inner


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


def _assigned(similarity: Similarity) -> Order:
    """The best order of units, of units within blocks in each of these."""
    if similarity.ndim == 2:
        return assigned(similarity)
    return np.stack([_assigned(each) for each in similarity])


def _paired(similarity: Similarity, order: Order) -> Similarity:
    """How alike the units are that an order pairs."""
    return np.take_along_axis(similarity, order[..., None], axis=-1)[..., 0]
