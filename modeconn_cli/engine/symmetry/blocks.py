"""The best order of a group's units, and of what is within each of them, while all other groups stand still.

A unit may be a block of others: a head with its entries, a key and value head with its query heads and their entries.
How much block j adds in the place of block i is the most that it can add under any order within it. Where one group
alone is within each tensor's part of a block, that is one assignment for each two blocks, and exact. Where two cross
(query heads and their entries), they are assigned in turn until nothing is gained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.symmetry.groups import Group, Move, Places
from modeconn_cli.engine.symmetry.pair import BLOCK, Order, Orders, Pair, Part, Similarity, Use

MOST_ROUNDS = 100


def parts(use: Use, inner: frozenset[Group]) -> list[Part] | None:
    """A group's elements taken apart by units that are within; None where these are no grid, alike in all blocks."""
    if inner not in use.taken_apart:
        here = [(group, move) for group, move in use.others if group in inner]
        fit = all(use.move.axis in (move.axis, move.across if group.within else -1) for group, move in here)
        use.taken_apart[inner] = _taken_apart(use.move, here) if fit else None
    return use.taken_apart[inner]


def _taken_apart(move: Move, inner: Sequence[tuple[Group, Move]]) -> list[Part] | None:
    along = [(group, each) for group, each in inner if each.axis == move.axis]
    across = [(group, each) for group, each in inner if each.axis != move.axis]
    if len({(group, each.axis) for group, each in inner}) < len(inner):
        return None
    unit_of = np.full((len(along), *move.places.shape), -1)
    for k, (_, each) in enumerate(along):
        number = np.full(move.length, -1)
        number[each.places] = np.arange(len(each.places))[:, None]
        unit_of[k] = number[move.places]
    if (unit_of != unit_of[:, :1]).any():
        return None
    units, out = unit_of[:, 0], []
    for there in np.unique(units >= 0, axis=1).T:
        columns = np.flatnonzero(((units >= 0) == there[:, None]).all(axis=0))
        groups = tuple(group for (group, _), has in zip(along, there, strict=True) if has)
        keys, sizes = units[there][:, columns], [group.size for group in groups]
        if len(columns) % prod(sizes):
            return None
        order = np.lexsort((columns, *keys[::-1]))
        grid = keys[:, order].reshape(len(sizes), *sizes, len(columns) // prod(sizes))
        if (grid != np.indices(sizes)[..., None]).any():
            return None
        elements = move.places[:, columns[order]].reshape(len(move.places), *sizes, -1)
        out.append(_crossed(Part(groups, elements, (move.axis,)), across))
    return out


def _crossed(part: Part, across: Sequence[tuple[Group, Move]]) -> Part:
    """A part with units on other axes too, which have an order of their own in each block."""
    for group, move in across:
        both = part.elements[..., None, :, None] * move.length + move.places[:, None, :]
        elements = both.reshape(*part.elements.shape[:-1], group.size, -1)
        part = Part((*part.inner, group), elements, (*part.axes, move.axis))
    return part


class Blocks:
    """What every block of the moving network would add in the place of every block of the fixed one.

    Of `inner`, which are within blocks, or cross them and are not matched yet, each two blocks have the order that is
    best for them. Of the `uses` those are taken in which all other groups are known.
    """

    def __init__(
        self, pair: Pair, group: Group, uses: Iterable[Use], inner: Sequence[Group], orders: Orders
    ) -> None:
        size = group.size
        self._size = size
        self._direct = torch.zeros(size, size, dtype=torch.float64)
        self._alone: dict[Group, Tensor] = {}
        self._crossing: list[tuple[tuple[Group, ...], Tensor, Tensor]] = []
        self.complete = True  # whether all uses could be taken apart
        for use in uses:
            found = parts(use, frozenset(other for other, _ in use.others if other in inner))
            if found is None:
                self.complete = False
                continue
            name = use.move.tensor
            other = pair.moved(name, [each for each in use.others if each[0] not in inner], orders)
            for part in found:
                self._take(part, pair.fixed[name], other)
        self._similar = {
            each: total.numpy().reshape(size, each.size, size, each.size).transpose(0, 2, 1, 3)
            for each, total in self._alone.items()
        }
        crossing = {each for groups, _, _ in self._crossing for each in groups}
        self._inner = sorted({*self._alone, *crossing}, key=lambda each: (each not in self._alone, each.size))

    def _take(self, part: Part, fixed: Tensor, moving: Tensor) -> None:
        sides = [rows_of(side, part.axes, part.elements) for side in (fixed, moving)]
        if len(part.inner) > 1:
            shape = part.elements.shape
            first, second = (side.double().reshape(*shape[:-1], shape[-1] * side.shape[1]) for side in sides)
            self._crossing.append((part.inner, first, second))
            return
        total = self._direct
        count = self._size * prod(each.size for each in part.inner)
        for each in part.inner:
            total = self._alone.setdefault(each, torch.zeros(count, count, dtype=torch.float64))
        add_products(total, *(side.reshape(count, -1) for side in sides))

    def best(self, group: Group) -> Orders:
        """The best order of the blocks, the units of `group`, and of the units within each."""
        if group.still:
            return self.refined(group, {group: np.arange(self._size)})
        if not self._inner:  # thousands of units, whose pairs are not looked at one by one
            return {group: assigned(self._direct.numpy())}
        found = [[self.within(i, j) for j in range(self._size)] for i in range(self._size)]
        order = assigned(np.array([[value for value, _ in row] for row in found]))
        inside = [row[j][1] for row, j in zip(found, order, strict=True)]
        return {group: order, **{each: np.stack([one[each] for one in inside]) for each in self._inner}}

    def refined(self, group: Group, orders: Orders) -> Orders:
        """As `best`, of the order that blocks have, beginning with the orders that there are within them."""
        inside = [
            self.within(i, int(j), {each: orders[each][i] for each in self._inner if each in orders})[1]
            for i, j in enumerate(orders[group])
        ]
        return {
            group: orders[group],
            **{each: np.stack([one[each] for one in inside]) for each in self._inner},
        }

    def total(self, group: Group, orders: Mapping[Group, Order]) -> float:
        """What all blocks add in an order of them, and of the units in each."""
        if not self._inner:
            return float(self._direct.numpy()[np.arange(self._size), orders[group]].sum())
        return sum(
            self._value(i, int(j), {each: orders[each][i] for each in self._inner})
            for i, j in enumerate(orders[group])
        )

    def within(self, i: int, j: int, start: Mapping[Group, Order] | None = None) -> tuple[float, Orders]:
        """What block j adds in the place of block i, and in which order of what is within."""
        orders: Orders = dict(start or {})
        for each in self._inner:
            if each not in orders:
                orders[each] = assigned(self._similarity(each, i, j, orders))
        for _ in range(MOST_ROUNDS if self._crossing else 0):
            gain = 0.0
            for each in self._inner:
                similarity, units = self._similarity(each, i, j, orders), np.arange(each.size)
                found = assigned(similarity)
                more = float((similarity[units, found] - similarity[units, orders[each]]).sum())
                if more > 1e-12 * float(np.abs(similarity).max(initial=0.0)) * each.size:
                    orders[each], gain = found, gain + more
            if gain == 0:
                break
        return self._value(i, j, orders), orders

    def _value(self, i: int, j: int, orders: Mapping[Group, Order]) -> float:
        total = float(self._direct[i, j])
        for each, similar in self._similar.items():
            total += float(similar[i, j][np.arange(each.size), orders[each]].sum())
        for groups, first, second in self._crossing:
            total += float((first[i] * _ordered(second[j], groups, orders)).sum())
        return total

    def _similarity(self, group: Group, i: int, j: int, orders: Mapping[Group, Order]) -> Similarity:
        """[k, l]: what unit l of block j adds in the place of unit k of block i, others being in their order.

        Of others that have none yet each two units have the best, where nothing else says anything of this group.
        """
        total = np.zeros((group.size, group.size))
        if group in self._similar:
            total += self._similar[group][i, j]
        said = group in self._similar
        open_yet = []
        for groups, first, second in self._crossing:
            if group not in groups:
                continue
            unknown = [each for each in groups if each is not group and each not in orders]
            axis = groups.index(group)
            sides = first[i], _ordered(second[j], groups, {**orders, group: np.arange(group.size)})
            rows = [side.movedim(axis, 0) for side in sides]
            if not unknown:
                total += (rows[0].flatten(1) @ rows[1].flatten(1).T).numpy()
                said = True
            elif len(unknown) == 1:
                inner = [each for each in groups if each is not group].index(unknown[0])
                open_yet.append([side.movedim(1 + inner, 1).flatten(2) for side in rows])
        for one, other in () if said else open_yet:
            each_two = torch.einsum("kar,lbr->klab", one, other).numpy()
            for two in np.ndindex(group.size, group.size):
                found = each_two[two]
                total[two] += found[np.arange(len(found)), assigned(found)].sum()
        return total


def _ordered(block: Tensor, groups: Sequence[Group], orders: Mapping[Group, Order]) -> Tensor:
    """A block [*units, the rest] with the units of some groups in their order."""
    for axis, group in enumerate(groups):
        if group in orders:
            block = block.index_select(axis, torch.from_numpy(orders[group]))
    return block


def assigned(similarity: Similarity) -> Order:
    """For each unit of the fixed network the one of the moving network that takes its place."""
    if not np.isfinite(similarity).all():
        raise InputError("the weights are too large: their products are beyond every float")
    return np.asarray(linear_sum_assignment(similarity, maximize=True)[1], dtype=np.int64)


def rows_of(tensor: Tensor, axes: Sequence[int], elements: Places) -> Tensor:
    """[elements of `axes`, flattened; everything that each is in this tensor]."""
    front = tensor.movedim(tuple(axes), tuple(range(len(axes)))).flatten(0, len(axes) - 1)
    flat = elements.reshape(-1)
    if not np.array_equal(flat, np.arange(len(front))):
        front = front.index_select(0, torch.from_numpy(flat))
    return front.reshape(len(flat), -1)


def add_products(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a · bᵀ in float64, block by block."""
    columns = max(1, BLOCK // len(a))
    for start in range(0, a.shape[1], columns):
        part = slice(start, start + columns)
        total.addmm_(a[:, part].double(), b[:, part].double().T)
