"""Weight matching: the permutation of one network's units under which its weights lie closest to another's.

Ainsworth et al. 2023 (arXiv:2209.04836): ‖A − P·B‖² is smallest where Σ ⟨A, P·B⟩ over all parameters is largest, and
that is a linear assignment for one group of units while the others stand still. The first sweep goes from the axes
that never move (inputs, classes, positions) inwards and sees only what is aligned already: from the identity in
random order deep residual networks stall. Then groups are solved in random order until none gains anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from modeconn_cli.engine.symmetry.blocks import Blocks, parts
from modeconn_cli.engine.symmetry.groups import Group, Symmetry
from modeconn_cli.engine.symmetry.pair import Order, Orders, Pair, Use, every_group, root
from modeconn_cli.engine.symmetry.permutation import identity, random_order

MOST_SWEEPS = 100
_START = ("outside in", "identity")  # of the first attempts; others begin at random

PlainOrder = list[int] | list[list[int]]


@dataclass(frozen=True)
class Matched:
    """`permute(moving, orders)` lies closest to the fixed network.

    `objective` is Σ ⟨A, P·B⟩ over the tensors that have a group on an axis: of the networks as they were, after the
    first sweep, and after each that followed. `start` says where the best attempt began.
    """

    orders: Orders
    objective: tuple[float, ...]
    start: str


@dataclass(frozen=True)
class Progress:
    """How far a matching is after a sweep, in plain values: what goes on from there ends as it would have without.

    `attempt` is the number of its start, `orders` are by group as `pair.every_group` has them, `due` the numbers of the
    groups that have to be solved again, `random` is the generator's state; `best` what earlier attempts have reached.
    """

    attempt: int
    orders: list[PlainOrder]
    objective: list[float]
    due: list[int]
    random: Mapping[str, Any]
    best: tuple[list[PlainOrder], list[float], str] | None

    def check(self, symmetry: Symmetry) -> None:
        """Raises ValueError or TypeError where it is not of a matching of these groups."""
        for orders in (self.orders, *([] if self.best is None else [self.best[0]])):
            _of_groups(every_group(symmetry), orders)
        if not set(self.due) <= set(range(len({root(group) for group in symmetry.groups}))):
            raise ValueError("no numbers of these groups")
        np.random.default_rng().bit_generator.state = self.random


def by_weights(
    symmetry: Symmetry,
    fixed: Mapping[str, Tensor],
    moving: Mapping[str, Tensor],
    *,
    seed: int = 0,
    restarts: int = 1,
    tell: Callable[[str, int, float], None] = lambda *_: None,
    begun: Progress | None = None,
    keep: Callable[[Progress], None] = lambda _: None,
) -> Matched:
    """Match the units of `moving` to those of `fixed` by their weights.

    Both hold the parameters of one architecture, whose groups `symmetry` has; statistics of normalisation layers are
    left out, which move along with their units. It is tried from outside in, from the units as they are, and from
    `restarts` − 1 random orders; the best objective is kept. `tell` hears of every sweep: the start, the number of
    the sweep, the objective; `keep` first of the progress, from which another call goes on where it has `begun` so.
    Identical units are exchanged freely.
    """
    pair = Pair(symmetry, fixed, moving)
    unmoved = {group: identity(group) for group in pair.every}
    generator = np.random.default_rng(seed)
    begin = pair.objective(unmoved)
    best: Matched | None = None
    if begun is not None:
        generator.bit_generator.state = begun.random
        if begun.best is not None:
            best = Matched(_of_groups(pair.every, begun.best[0]), tuple(begun.best[1]), begun.best[2])
    for number in range(0 if begun is None else begun.attempt, restarts + 1):
        name = _START[number] if number < len(_START) else f"random {number - 1}"
        if begun is not None and number == begun.attempt:
            orders, found = _of_groups(pair.every, begun.orders), list(begun.objective)
            due = {pair.groups[k] for k in begun.due}
        else:
            orders, due = _start(pair, unmoved, generator, number), set(pair.groups)
            found = [begin] if name == "identity" else [begin, pair.objective(orders)]
            tell(name, 0, found[-1])
        for _ in _descent(pair, orders, generator, found, due, 1 if name == "identity" else 2):
            reached = None if best is None else (_plain(pair, best.orders), list(best.objective), best.start)
            numbers = [k for k, group in enumerate(pair.groups) if group in due]
            random = generator.bit_generator.state
            keep(Progress(number, _plain(pair, orders), list(found), numbers, random, reached))
            tell(name, len(found) - 1, found[-1])
        if best is None or found[-1] > best.objective[-1] + pair.tolerance:
            best = Matched(orders, tuple(found), name)
    assert best is not None
    return replace(best, orders={group: best.orders[group] for group in symmetry.groups})


def _plain(pair: Pair, orders: Mapping[Group, Order]) -> list[PlainOrder]:
    return [orders[group].tolist() for group in pair.every]


def _of_groups(groups: Sequence[Group], orders: Sequence[PlainOrder]) -> Orders:
    """The orders of `_plain`. Raises ValueError where they are not of these groups."""
    found = {group: np.array(order, dtype=np.int64) for group, order in zip(groups, orders, strict=True)}
    for group, order in found.items():
        if order.shape != group.shape or (np.sort(order, axis=-1) != np.arange(group.size)).any():
            raise ValueError("no orders of these units")
    return found


def improve(
    symmetry: Symmetry,
    fixed: Mapping[str, Tensor],
    moving: Mapping[str, Tensor],
    orders: Orders,
    generator: np.random.Generator,
) -> float:
    """Match on from the orders there are, which are changed; what the objective gains."""
    pair = Pair(symmetry, fixed, moving)
    full = {group: identity(group) for group in pair.every} | orders
    found = [pair.objective(full)]
    for _ in _descent(pair, full, generator, found, set(pair.groups), 1):
        pass
    orders |= {group: full[group] for group in orders}
    return found[-1] - found[0]


def _start(pair: Pair, unmoved: Mapping[Group, Order], generator: np.random.Generator, number: int) -> Orders:
    """Where an attempt begins: from outside in, from the units as they are, then from random orders."""
    if number == 0:
        return _outside_in(pair, dict(unmoved))
    if number == 1:
        return dict(unmoved)
    return {group: unmoved[group] if group.still else random_order(group, generator) for group in pair.every}


def _descent(
    pair: Pair,
    orders: Orders,
    generator: np.random.Generator,
    found: list[float],
    due: set[Group],
    begin: int,
) -> Iterator[None]:
    """Solve one group after the other until a sweep gains nothing; after each sweep its objective is in `found`, of
    which `begin` come before the first.

    A group is left out while nothing has changed around it since it was solved: the same assignment comes out. Those
    that are `due` are not.
    """
    while len(found) - begin < MOST_SWEEPS and not (len(found) > begin and found[-1] == found[-2]):
        objective = found[-1]
        for k in generator.permutation(len(pair.groups)):
            group = pair.groups[k]
            if group in due:
                due.discard(group)
                gain = _solve(pair, group, orders)
                if gain > 0:
                    objective += gain
                    due |= pair.neighbours(group)
        found.append(objective)
        yield


def _solve(pair: Pair, group: Group, orders: Orders) -> float:
    """The best order of one group, and of the units within it, while the others stand still; what it gains.

    It is kept where it is better than the one there is. Where the group is on two axes of a tensor the objective is
    taken as linear around the order there is.
    """
    blocks = Blocks(pair, group, pair.uses[group], pair.inner[group], orders)
    names = list(dict.fromkeys(use.move.tensor for use in pair.uses[group]))
    exact = blocks.complete and pair.is_linear(group)

    def reached(found: Mapping[Group, Order]) -> float:
        return blocks.total(group, found) if exact else pair.objective({**orders, **found}, names)

    before = reached(orders)
    for found in (blocks.best(group), blocks.refined(group, orders)):
        gain = reached(found) - before
        if gain > pair.tolerance:
            orders |= found
            return gain
    return 0.0


def _outside_in(pair: Pair, orders: Orders) -> Orders:
    """The first sweep: always the group of which the most is next to what does not move, or has been matched.

    A tensor with an axis whose units are not matched yet says nothing of this one's, with one exception: where a
    unit of the group is a block of such units (a head and its entries), blocks are compared under the best order of
    the entries of each two.
    """
    left = list(pair.groups)
    while left:
        found = max(left, key=lambda group: _known(pair, group, left))  # the first of the best
        left.remove(found)
        inner, known = list(pair.inner[found]), []
        for use in pair.uses[found]:
            unknown = _open(use, found, left)
            if _compares(use, found, unknown):
                known.append(use)
                inner += [other for other in unknown if other not in inner]
        best = Blocks(pair, found, known or pair.uses[found], inner if known else pair.inner[found], orders)
        orders |= {each: order for each, order in best.best(found).items() if root(each) is found}
    return orders


def _open(use: Use, group: Group, left: Sequence[Group]) -> set[Group]:
    """The groups in the tensor whose order is not known; the group itself where it is there on another axis too."""
    return {other for other, _ in use.others if root(other) in left or other is group}


def _compares(use: Use, group: Group, unknown: set[Group]) -> bool:
    """Whether blocks can be compared in a tensor: nothing in it is unknown, or one group that is inside of blocks."""
    if not unknown:
        return True
    inside = frozenset(other for other, _ in use.others if other in unknown or other.within is group)
    return len(unknown) == 1 and group not in unknown and parts(use, inside) is not None


def _known(pair: Pair, group: Group, left: Sequence[Group]) -> tuple[float, int]:
    """The share of what the group moves that can be compared, and how much that is."""
    others = [each for each in left if each is not group]
    uses = pair.uses[group]
    known = sum(use.elements for use in uses if _compares(use, group, _open(use, group, others)))
    return known / max(1, sum(use.elements for use in uses)), known
