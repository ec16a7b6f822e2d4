"""Weight matching: the permutation of one network's units under which its weights lie closest to another's.

Ainsworth et al. 2023 (arXiv:2209.04836): ‖A − P·B‖² is smallest where Σ ⟨A, P·B⟩ over all parameters is largest, and
that is a linear assignment for one group of units while the others stand still. The first sweep goes from the axes
that never move (inputs, classes, positions) inwards and sees only what is aligned already: from the identity in
random order deep residual networks stall. Then groups are solved in random order until none gains anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from modeconn_cli.engine.symmetry.blocks import Blocks, parts
from modeconn_cli.engine.symmetry.groups import Group, Symmetry
from modeconn_cli.engine.symmetry.pair import Order, Orders, Pair, Use, root
from modeconn_cli.engine.symmetry.permutation import identity, random_order

MOST_SWEEPS = 100


@dataclass(frozen=True)
class Matched:
    """`permute(moving, orders)` lies closest to the fixed network.

    `objective` is Σ ⟨A, P·B⟩ over the tensors that have a group on an axis: of the networks as they were, after the
    first sweep, and after each that followed. `start` says where the best attempt began.
    """

    orders: dict[Group, Order]
    objective: tuple[float, ...]
    start: str


def by_weights(
    symmetry: Symmetry,
    fixed: Mapping[str, Tensor],
    moving: Mapping[str, Tensor],
    *,
    seed: int = 0,
    restarts: int = 1,
    tell: Callable[[str, int, float], None] = lambda *_: None,
) -> Matched:
    """Match the units of `moving` to those of `fixed` by their weights.

    Both hold the parameters of one architecture, whose groups `symmetry` has; statistics of normalisation layers are
    left out, which move along with their units. It is tried from outside in, from the units as they are, and from
    `restarts` − 1 random orders; the best objective is kept. `tell` hears of every sweep: the start, the number of
    the sweep, the objective. Identical units are exchanged freely.
    """
    pair = Pair(symmetry, fixed, moving)
    unmoved = {group: identity(group) for group in (*pair.groups, *symmetry.groups)}
    generator = np.random.default_rng(seed)
    begin = pair.objective(unmoved)
    best: Matched | None = None
    for name, orders, first in _starts(pair, unmoved, generator, restarts):
        found = [begin, *([] if name == "identity" else [first])]
        tell(name, 0, found[-1])
        for objective in _descent(pair, orders, generator):
            found.append(objective)
            tell(name, len(found) - 1, objective)
        if best is None or found[-1] > best.objective[-1] + pair.tolerance:
            best = Matched({group: orders[group] for group in symmetry.groups}, tuple(found), name)
    assert best is not None
    return best


def improve(
    symmetry: Symmetry,
    fixed: Mapping[str, Tensor],
    moving: Mapping[str, Tensor],
    orders: dict[Group, Order],
    generator: np.random.Generator,
) -> float:
    """Match on from the orders there are, which are changed; what the objective gains."""
    pair = Pair(symmetry, fixed, moving)
    full = {**{group: identity(group) for group in pair.groups}, **orders}
    before = after = pair.objective(full)
    for objective in _descent(pair, full, generator):
        after = objective
    orders |= {group: full[group] for group in orders}
    return after - before


def _starts(
    pair: Pair, unmoved: Mapping[Group, Order], generator: np.random.Generator, restarts: int
) -> Iterator[tuple[str, Orders, float]]:
    """Where an attempt begins: its name, the orders, their objective."""
    inwards = _outside_in(pair, dict(unmoved))
    yield "outside in", inwards, pair.objective(inwards)
    yield "identity", dict(unmoved), pair.objective(unmoved)
    for k in range(1, restarts):
        orders = {
            group: order if group.still else random_order(group, generator)
            for group, order in unmoved.items()
        }
        yield f"random {k}", orders, pair.objective(orders)


def _descent(pair: Pair, orders: dict[Group, Order], generator: np.random.Generator) -> Iterator[float]:
    """Solve one group after the other until a sweep gains nothing; the objective after each sweep.

    A group is left out while nothing has changed around it since it was solved: the same assignment comes out.
    """
    due = set(pair.groups)
    objective = pair.objective(orders)
    for _ in range(MOST_SWEEPS):
        before = objective
        for k in generator.permutation(len(pair.groups)):
            group = pair.groups[k]
            if group in due:
                due.discard(group)
                gain = _solve(pair, group, orders)
                if gain > 0:
                    objective += gain
                    due |= pair.neighbours(group)
        yield objective
        if objective == before:
            return


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
