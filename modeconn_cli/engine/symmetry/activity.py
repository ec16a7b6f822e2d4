"""Activation matching: the permutation of one network's units under which they act most like another's.

Li et al. 2015 (arXiv:1511.07543). Two units are as alike as their activations correlate over samples and positions,
after the nonlinearity; of a group without one, where its layers give it. What several places of a network say of one
group is added.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.graph import Graph
from modeconn_cli.engine.symmetry.blocks import assigned
from modeconn_cli.engine.symmetry.correlations import correlations
from modeconn_cli.engine.symmetry.groups import Group, Symmetry
from modeconn_cli.engine.symmetry.pair import Order, Orders, Similarity
from modeconn_cli.engine.symmetry.permutation import identity, permute
from modeconn_cli.engine.symmetry.places import Place, find

MOST_ROUNDS = 100
ROUNDING = 1e-9  # of a sum of correlations: a smaller gain is none


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

        before = reached(own)
        for found in (self._best(group, k, own, others), self._alone(group, k, own, others)):
            gain = reached(own | found) - before
            if gain > ROUNDING:
                own |= found
                return gain
        return 0.0

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
        nested, orders = self._nested(group, own)
        direct, of_inner = self._inside(group, k, orders, others, frozenset([*nested, *later]))
        best = {inner: _assigned(found) for inner, found in of_inner.items()}
        if not best:
            return self._alone(group, k, own, others)
        for inner, order in best.items():
            direct = direct + _paired(of_inner[inner], order).sum(-1)
        found = {group: _assigned(direct)}
        for inner in nested:
            if inner in best:
                found[inner] = best[inner][np.arange(group.size), found[group]]
            else:
                found[inner] = orders[inner][found[group]]
        return found

    def _alone(self, group: Group, k: int, own: Orders, others: Mapping[int, Orders]) -> Orders:
        """The best order of a group while all others stay; what is within its units goes along."""
        nested, orders = self._nested(group, own)
        order = _assigned(self._similarity(group, k, orders, others))
        return {group: order, **{inner: orders[inner][order] for inner in nested}}

    def _nested(self, group: Group, own: Orders) -> tuple[list[Group], Orders]:
        """The groups within a group's units, and the orders with theirs by the units as they are in network k."""
        nested = [each for each in self.due if each.within is group]
        return nested, {**own, **{each: own[each][np.argsort(own[group])] for each in nested}}

    def _similarity(self, group: Group, k: int, own: Orders, others: Mapping[int, Orders]) -> Similarity:
        """[i, j]: how alike unit j of network k is to those that others have in place i.

        Places count as they do in what all groups there reach, so that what is best here is best for that too.
        """
        out = np.zeros(())
        for place in self._met(group):
            counts = sum(each.size / len(self._met(each)) for each in place.units if each in self.due)
            for other, orders in others.items():
                out = out + counts * place.similarity(group, self.between(other, k, place), orders, own)
        return out

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
    every, left = find(symmetry, graph), set(symmetry.groups)
    while left:
        places = tuple(place for place in every if left & place.units.keys() and not left & place.beside)
        due = tuple(g for g in symmetry.groups if g in left and any(g in place.units for place in places))
        if not due:
            named = next(group for group in symmetry.groups if group in left)
            raise InputError(f"the units of '{named.layer}' are nowhere met alone", "match them by weights")
        moved = [permute(*each) for each in zip(networks, orders, strict=True)]
        yield Phase(due, places, correlations(graph, places, moved, batches()))
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


def _assigned(similarity: Similarity) -> Order:
    """The best order of units, of units within blocks in each of these."""
    if similarity.ndim == 2:
        return assigned(similarity)
    return np.stack([_assigned(each) for each in similarity])


def _paired(similarity: Similarity, order: Order) -> Similarity:
    """How alike the units are that an order pairs."""
    return np.take_along_axis(similarity, order[..., None], axis=-1)[..., 0]
