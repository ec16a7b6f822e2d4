"""Activation matching: the permutation of one network's units under which they act most like another's.

Li et al. 2015 (arXiv:1511.07543). Two units are as alike as their activations correlate over samples and positions,
after the nonlinearity; of a group without one, where its layers give it. What several places of a network say of one
group is added. A unit that never changes correlates with none. Data are streamed: of each place the memory holds one
matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.activations import nonlinearities
from modeconn_cli.engine.networks.activations.sites import LAYERS
from modeconn_cli.engine.networks.flat import Runner
from modeconn_cli.engine.networks.graph import Graph, operation
from modeconn_cli.engine.symmetry.groups import Group, Places, Symmetry
from modeconn_cli.engine.symmetry.match import Order, Similarity, assigned
from modeconn_cli.engine.symmetry.permutation import permute

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
        """[i, j]: the mean correlation of unit j of the second network with unit i, others being in their order."""
        if len(self.units) == 1:
            return alike
        places, moved = self.units[group], self._moved(orders, group)
        mean: Similarity = alike[places[:, None, :], moved[places][None, :, :]].mean(2)
        return mean

    def _moved(self, orders: Mapping[Group, Order], but: Group) -> Places:
        """Which element comes to the place of each."""
        whole = np.arange(1 + max(int(places.max()) for places in self.units.values()))
        for group, places in self.units.items():
            if group is not but:
                whole[places] = whole[places[orders[group]]]
        return whole


def _places(symmetry: Symmetry, node: fx.Node) -> list[_Place]:
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
        _Place(node, axes, units, frozenset(g for its, there in out if its != axes for g in there))
        for axes, units in out
    ]


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


class _Recorder:
    """Runs the graph and lays out what is at the places."""

    def __init__(self, graph: Graph, places: Iterable[_Place]) -> None:
        self._graph, self._runner = graph, Runner(graph.module)
        self._at: dict[fx.Node, list[_Place]] = {}
        for place in places:
            self._at.setdefault(place.node, []).append(place)

    def of(self, state: Mapping[str, Tensor], images: Tensor) -> dict[_Place, Tensor]:
        steps = self._runner.steps(*self._graph.arguments(state, images).values())
        return {place: place.laid_out(out) for node, out in steps for place in self._at.get(node, ())}


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
    orders = {group: np.arange(group.size) for group in symmetry.groups}
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
        blocks = [_blocks(place, group, due, alike[place]) for place in places if group in place.units]
        nested = [each for each in blocks if each is not None]
        orders[group] = assigned(sum(nested, np.zeros(())) if nested else similarity(group))
    crossing = [group for group in due if any(group in p.units and len(p.units) > 1 for p in places)]
    for _ in range(MOST_ROUNDS if crossing else 0):
        gain = 0.0
        for group in crossing:
            found, units = similarity(group), np.arange(group.size)
            new = assigned(found)
            more = float((found[units, new] - found[units, orders[group]]).sum())
            if more > 1e-9:
                orders[group], gain = new, gain + more
        if gain == 0:
            break
    return [float(similarity(group)[np.arange(group.size), orders[group]].mean()) for group in due]


def _blocks(place: _Place, group: Group, due: Sequence[Group], alike: Similarity) -> Similarity | None:
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
