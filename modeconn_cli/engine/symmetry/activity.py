"""Activation matching: the permutation of one network's units under which they act most like another's.

Li et al. 2015 (arXiv:1511.07543). Two units are as alike as their activations correlate over samples and positions,
after the nonlinearity; of a group without one, where its layers give it. What several places of a network say of one
group is added. A unit that never changes correlates with none. Data are streamed: of each place the memory holds one
matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from modeconn_cli.engine.symmetry.pair import Order, Part, Similarity, Use
from modeconn_cli.engine.symmetry.permutation import identity, permute

MOST_ROUNDS = 100


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
class _Place:
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

    def similarity(self, group: Group, orders: Mapping[Group, Order], alike: Similarity) -> Similarity:
        """[i, j]: the mean correlation of unit j of the second network with unit i, others being in their order.

        Of units within blocks one such matrix for each of these.
        """
        if len(self.units) == 1:
            return alike
        places, moved = self.units[group], self._moved(orders, group)
        blocks = np.zeros(places.shape[1], dtype=np.int64) if group.within is None else self._blocks(group)
        out = np.empty((int(blocks.max()) + 1, group.size, group.size))
        for block in range(len(out)):
            here = places[:, blocks == block]
            out[block] = alike[here[:, None, :], moved[here][None, :, :]].mean(2)
        return out if group.within is not None else out[0]

    def paired(self, group: Group, orders: Mapping[Group, Order], alike: Similarity) -> float:
        """The mean correlation of a group's units with those that are in their place."""
        if len(self.units) == 1:
            return float(alike[np.arange(group.size), orders[group]].mean())
        places = self.units[group]
        return float(alike[places, self._moved(orders)[places]].mean())

    def apart(self, group: Group, inner: frozenset[Group]) -> list[Part]:
        """The elements of a group's units taken apart by units that are inside; none where that is impossible."""
        moves = {
            each: Move("", 0, 1 + max(int(found.max()) for found in self.units.values()), places)
            for each, places in self.units.items()
        }
        others = tuple((each, move) for each, move in moves.items() if each is not group)
        return parts(Use(moves[group], others, 0), inner) or []

    def _blocks(self, group: Group) -> Places:
        """The block of each place of units that are within blocks."""
        assert group.within is not None
        around = self.units[group.within]
        block = np.full(1 + int(around.max()), -1)
        block[around] = np.arange(len(around))[:, None]
        return np.asarray(block[self.units[group][0]])

    def _moved(self, orders: Mapping[Group, Order], but: Group | None = None) -> Places:
        """Which element comes to the place of each."""
        whole = np.arange(1 + max(int(places.max()) for places in self.units.values()))
        for group, places in sorted(self.units.items(), key=lambda each: each[0].within is not None):
            order = orders[group]
            if group is not but and order.ndim == 1:
                whole[places] = whole[places[order]]
            elif group is not but:
                whole[places] = whole[places[order[self._blocks(group)].T, np.arange(places.shape[1])]]
        return whole


def _places(symmetry: Symmetry, node: fx.Node) -> list[_Place]:
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
        _Place(node, axes, units, frozenset(g for its, there in out if its != axes for g in there))
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


def _find(symmetry: Symmetry, graph: Graph) -> list[_Place]:
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

    def __init__(self, graph: Graph, places: Iterable[_Place]) -> None:
        super().__init__(graph.module)
        self._graph = graph
        self._at: dict[fx.Node, list[_Place]] = {}
        for place in places:
            self._at.setdefault(place.node, []).append(place)
        self._found: dict[_Place, Tensor] = {}

    @torch.no_grad()
    def of(self, state: Mapping[str, Tensor], images: Tensor) -> dict[_Place, Tensor]:
        self._found = {}
        self.run(*self._graph.arguments(state, images).values())
        return self._found

    def compute(self, n: fx.Node) -> Any:
        out = super().compute(n)
        for place in self._at.get(n, ()):
            self._found[place] = place.laid_out(out)
        return out


def by_activations(
    symmetry: Symmetry,
    graph: Graph,
    fixed: Mapping[str, Tensor],
    moving: Mapping[str, Tensor],
    batches: Callable[[], Iterable[Tensor]],
) -> tuple[dict[Group, Order], float]:
    """The order of each group's units, and the mean correlation of the units that are paired.

    `fixed` and `moving` are whole state dicts in the names of the traced network, on the device of the `batches`, which
    are asked for once, and once more where a group is met beside others alone, whose order has to be known first.
    Raises InputError where that leads nowhere.
    """
    every_group = (*symmetry.groups, *(group.within for group in symmetry.groups if group.within is not None))
    orders = {group: identity(group) for group in every_group}
    every, left, reached = _find(symmetry, graph), set(symmetry.groups), list[float]()
    while left:
        places = [place for place in every if left & place.units.keys() and not left & place.beside]
        due = [group for group in symmetry.groups if group in left and any(group in p.units for p in places)]
        if not due:
            named = next(group for group in symmetry.groups if group in left)
            raise InputError(f"the units of '{named.layer}' are nowhere met alone", "use --method weights")
        alike = _correlations(graph, places, fixed, permute(moving, orders), batches())
        reached += _matched(due, places, alike, orders)
        left -= set(due)
    orders = {group: orders[group] for group in symmetry.groups}
    return orders, float(np.average(reached, weights=[group.size for group in symmetry.groups]))


def _correlations(
    graph: Graph,
    places: Sequence[_Place],
    fixed: Mapping[str, Tensor],
    moving: Mapping[str, Tensor],
    batches: Iterable[Tensor],
) -> dict[_Place, Similarity]:
    recorder, moments = _Recorder(graph, places), {place: _Moments() for place in places}
    for images in batches:
        first, second = (recorder.of(state, images) for state in (fixed, moving))
        for place, each in moments.items():
            each.add((first[place], second[place]))
    found = {place: each.correlation() for place, each in moments.items()}
    for place, alike in found.items():
        if not np.isfinite(alike).all():
            layer = next(iter(place.units)).layer
            raise InputError(f"the activations of '{layer}' are not finite", "use --method weights")
    return found


def _matched(
    due: Sequence[Group],
    places: Sequence[_Place],
    alike: Mapping[_Place, Similarity],
    orders: dict[Group, Order],
) -> list[float]:
    """Match some groups; the mean correlation of the units of each. Groups that cross are matched in turn.

    Of two that cross, units of the larger blocks come first, compared under the best order of what is inside.
    """

    def similarity(group: Group) -> Similarity:
        at = [place for place in places if group in place.units]
        return sum((place.similarity(group, orders, alike[place]) for place in at), np.zeros(())) / len(at)

    for group in due:
        if group.within not in due:
            at = {place: alike[place] for place in places if group in place.units}
            inside = [each for each in due[due.index(group) :] if each is not group]
            inside += [each for each in due if each.within is group and each not in inside]
            _match_blocks(group, at, inside, orders) or orders.update({group: _assigned(similarity(group))})
    crossing = [group for group in due if any(group in p.units and len(p.units) > 1 for p in places)]
    crossing = [group for group in crossing if all(each.within is not group for each in due)]
    for _ in range(MOST_ROUNDS if crossing else 0):
        gain = 0.0
        for group in crossing:
            found = similarity(group)
            new = _assigned(found)
            more = float((_paired(found, new) - _paired(found, orders[group])).sum())
            if more > 1e-9:
                orders[group], gain = new, gain + more
        if gain == 0:
            break
    return [
        float(np.mean([p.paired(group, orders, alike[p]) for p in places if group in p.units]))
        for group in due
    ]


def _assigned(similarity: Similarity) -> Order:
    """The best order of units, of units within blocks in each of these."""
    return assigned(similarity) if similarity.ndim == 2 else np.stack([assigned(each) for each in similarity])


def _paired(similarity: Similarity, order: Order) -> Similarity:
    """How alike the units are that an order pairs."""
    return np.take_along_axis(similarity, order[..., None], axis=-1)[..., 0]


def _match_blocks(
    group: Group, places: Mapping[_Place, Similarity], inside: Sequence[Group], orders: dict[Group, Order]
) -> bool:
    """Match a group by what is inside of its units, each two of which have the order of it that is best for them.

    Units that are within its own have that order from then on. Returns whether a place says so much of it.
    """
    size = group.size
    direct, of_inner = np.zeros((size, size)), dict[Group, Similarity]()
    for place, alike in places.items():
        if len(place.units) == 1:
            direct += place.units[group].shape[1] * alike
            continue
        moved = place._moved({**orders, **{each: np.arange(each.size) for each in inside}}, group)
        for part in place.apart(group, frozenset(inside).intersection(place.units)):
            elements = part.elements.reshape(-1, part.elements.shape[-1])
            if len(part.inner) > 1:
                continue
            found = sum((alike[np.ix_(each, moved[each])] for each in elements.T), np.zeros(()))
            if not part.inner:
                direct += found
                continue
            (inner,) = part.inner
            shaped = found.reshape(size, inner.size, size, inner.size).transpose(0, 2, 1, 3)
            of_inner[inner] = of_inner.get(inner, np.zeros(())) + shaped
    if not of_inner:
        return False
    best = {inner: np.stack([_assigned(row) for row in found]) for inner, found in of_inner.items()}
    for inner, found in of_inner.items():
        direct += _paired(found, best[inner]).sum(-1)
    orders[group] = assigned(direct)
    for inner, order in best.items():
        if inner.within is group:
            orders[inner] = order[np.arange(size), orders[group]]
    return True
