"""Where a network shows its groups of units: places of the graph, and the elements there that belong to each unit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, fx

from modeconn_cli.engine.networks.activations import nonlinearities
from modeconn_cli.engine.networks.activations.sites import LAYERS
from modeconn_cli.engine.networks.graph import Graph, operation, shape_of
from modeconn_cli.engine.symmetry.blocks import parts
from modeconn_cli.engine.symmetry.groups import Group, Move, Places, Symmetry
from modeconn_cli.engine.symmetry.pair import Order, Part, Similarity, Use


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


def find(symmetry: Symmetry, graph: Graph) -> list[Place]:
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
