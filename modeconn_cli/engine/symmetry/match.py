"""Weight matching: the permutation of one network's units under which its weights lie closest to another's.

Ainsworth et al. 2023 (arXiv:2209.04836): ‖A − P·B‖² is smallest where Σ ⟨A, P·B⟩ over all parameters is largest, and
that is a linear assignment for one group of units while the others stand still. The first sweep goes from the axes
that never move (inputs, classes, positions) inwards and sees only what is aligned already: from the identity in
random order deep residual networks stall. Then groups are solved in random order until none gains anything.

Sums are in float64. Tensors are read where they are: the memory is a group's tensors in blocks and a matrix of the
group's size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.symmetry.groups import Group, Move, Places, Symmetry
from modeconn_cli.engine.symmetry.permutation import whole_axes

Order = Places  # of a group's units
Orders = dict[Group, Order]
Similarity = npt.NDArray[np.float64]

BLOCK = 1 << 22  # elements of a tensor that are in float64 at a time
ROUNDING = 1e-13  # of the largest objective there could be: a smaller gain is none
MOST_SWEEPS = 100
_START = ("outside in", "identity")  # of the first attempts; others begin at random


@dataclass(frozen=True)
class Matched:
    """`permute(moving, orders)` lies closest to the fixed network.

    `objective` is Σ ⟨A, P·B⟩ over the tensors that have a group on an axis: of the networks as they were, after the
    first sweep, and after each that followed. `start` says where the best attempt began.
    """

    orders: Orders
    objective: tuple[float, ...]
    start: str


@dataclass(frozen=True, eq=False)
class _Use:
    """A group on an axis of a tensor, and what else moves in that tensor."""

    move: Move
    others: tuple[tuple[Group, Move], ...]
    elements: int


class _Pair:
    """Two networks of one architecture: what each group moves in them."""

    def __init__(self, symmetry: Symmetry, fixed: Mapping[str, Tensor], moving: Mapping[str, Tensor]) -> None:
        self.fixed, self.moving, self.groups = fixed, moving, symmetry.groups
        self._known_apart: dict[tuple[_Use, Group], Places | None] = {}
        in_tensor: dict[str, list[tuple[Group, Move]]] = {}
        for group in symmetry.groups:
            for move in group.moves:
                if move.tensor in fixed:
                    in_tensor.setdefault(move.tensor, []).append((group, move))
        self.in_tensor = in_tensor
        self.uses: dict[Group, list[_Use]] = {group: [] for group in symmetry.groups}
        for name, found in in_tensor.items():
            for k, (group, move) in enumerate(found):
                others = tuple(found[:k] + found[k + 1 :])
                self.uses[group].append(_Use(move, others, fixed[name].numel()))
        norms = [inner_product(side[name], side[name]) for side in (fixed, moving) for name in in_tensor]
        half = len(norms) // 2
        self.tolerance = ROUNDING * float(np.sqrt(sum(norms[:half]) * sum(norms[half:])))

    def apart(self, use: _Use, inner: Group) -> Places | None:
        """As `_apart`, which is asked for over and over while nothing changes."""
        if (use, inner) not in self._known_apart:
            self._known_apart[use, inner] = _apart(use, inner)
        return self._known_apart[use, inner]

    def neighbours(self, group: Group) -> set[Group]:
        """The groups whose order the assignment of this one depends on."""
        return {other for use in self.uses[group] for other, _ in use.others}

    def is_linear(self, group: Group) -> bool:
        """Whether the objective is linear in the group's permutation: it moves one axis of each tensor."""
        return group not in self.neighbours(group)

    def objective(self, orders: Mapping[Group, Order], names: Sequence[str] | None = None) -> float:
        """Σ ⟨A, P·B⟩ over some of the tensors, all that anything moves in where none are named."""
        total = 0.0
        for name in self.in_tensor if names is None else names:
            total += inner_product(self.fixed[name], _moved(self.moving[name], self.in_tensor[name], orders))
        return total

    def similarity(self, group: Group, orders: Mapping[Group, Order], uses: Sequence[_Use]) -> Similarity:
        """[i, j]: what unit j of the moving network adds to the objective in the place of unit i."""
        total = torch.zeros(group.size, group.size, dtype=torch.float64)
        for use in uses:
            name, places = use.move.tensor, use.move.places
            other = _moved(self.moving[name], use.others, orders)
            _add_products(total, _units(self.fixed[name], use.move, places), _units(other, use.move, places))
        return total.numpy()


@dataclass(frozen=True)
class Progress:
    """How far a matching is after a sweep, in plain values: what goes on from there ends as it would have without.

    `attempt` is the number of its start, `orders` are by group in the symmetry's order, `due` the numbers of the groups
    that have to be solved again, `random` is the generator's state; `best` what the attempts before have reached.
    """

    attempt: int
    orders: list[list[int]]
    objective: list[float]
    due: list[int]
    random: str
    best: tuple[list[list[int]], list[float], str] | None


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
    pair = _Pair(symmetry, fixed, moving)
    identity = {group: np.arange(group.size) for group in symmetry.groups}
    generator = np.random.default_rng(seed)
    begin = pair.objective(identity)
    best: Matched | None = None
    if begun is not None:
        generator.bit_generator.state = json.loads(begun.random)
        if begun.best is not None:
            best = Matched(_of_groups(pair, begun.best[0]), tuple(begun.best[1]), begun.best[2])
    for number in range(0 if begun is None else begun.attempt, restarts + 1):
        name = _START[number] if number < len(_START) else f"random {number - 1}"
        if begun is not None and number == begun.attempt:
            orders, found = _of_groups(pair, begun.orders), list(begun.objective)
            due = {pair.groups[k] for k in begun.due}
        else:
            orders, due = _start(pair, identity, generator, number), set(pair.groups)
            found = [begin] if name == "identity" else [begin, pair.objective(orders)]
            tell(name, 0, found[-1])
        for _ in _descent(pair, orders, generator, found, due, 1 if name == "identity" else 2):
            reached = None if best is None else (_plain(pair, best.orders), list(best.objective), best.start)
            numbers = [k for k, group in enumerate(pair.groups) if group in due]
            random = json.dumps(generator.bit_generator.state)
            keep(Progress(number, _plain(pair, orders), list(found), numbers, random, reached))
            tell(name, len(found) - 1, found[-1])
        if best is None or found[-1] > best.objective[-1] + pair.tolerance:
            best = Matched(orders, tuple(found), name)
    assert best is not None
    return best


def _plain(pair: _Pair, orders: Mapping[Group, Order]) -> list[list[int]]:
    return [orders[group].tolist() for group in pair.groups]


def _of_groups(pair: _Pair, orders: Sequence[Sequence[int]]) -> Orders:
    """The orders of `_plain`. Raises ValueError where they are not of these groups."""
    found = {group: np.array(order, dtype=np.int64) for group, order in zip(pair.groups, orders, strict=True)}
    if any(not np.array_equal(np.sort(order), np.arange(group.size)) for group, order in found.items()):
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
    pair = _Pair(symmetry, fixed, moving)
    found = [pair.objective(orders)]
    for _ in _descent(pair, orders, generator, found, set(pair.groups), 1):
        pass
    return found[-1] - found[0]


def _start(
    pair: _Pair, identity: Mapping[Group, Order], generator: np.random.Generator, number: int
) -> Orders:
    """Where an attempt begins: from outside in, from the units as they are, then from random orders."""
    if number == 0:
        return _outside_in(pair, dict(identity))
    if number == 1:
        return dict(identity)
    return {group: generator.permutation(group.size) for group in pair.groups}


def _descent(
    pair: _Pair,
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


def _solve(pair: _Pair, group: Group, orders: Orders) -> float:
    """The best order of one group while the others stand still, if it is better than the one there is; what it gains.

    Where the group is on two axes of a tensor the objective is taken as linear around the order there is, and what
    comes out is kept only where the objective itself has risen.
    """
    similarity = pair.similarity(group, orders, pair.uses[group])
    before, found = orders[group], assigned(similarity)
    units = np.arange(group.size)
    if pair.is_linear(group):
        gain = float((similarity[units, found] - similarity[units, before]).sum())
    else:
        names = list(dict.fromkeys(use.move.tensor for use in pair.uses[group]))
        gain = pair.objective({**orders, group: found}, names) - pair.objective(orders, names)
    if gain <= pair.tolerance:
        return 0.0
    orders[group] = found
    return gain


def _outside_in(pair: _Pair, orders: Orders) -> Orders:
    """The first sweep: always the group of which the most is next to what does not move, or has been matched.

    A tensor with an axis whose units are not matched yet says nothing of this one's, with one exception: where a
    unit of the group is a block of such units (a head and its entries), blocks are compared under the best order of
    the entries of each two.
    """
    left = list(pair.groups)
    while left:
        found = max(left, key=lambda group: _known(pair, group, left))  # the first of the best
        left.remove(found)
        known = [use for use in pair.uses[found] if not _open(use, found, left)]
        blocks = _blocks(pair, found, left)
        if not known and not blocks:
            known = pair.uses[found]
        similarity = pair.similarity(found, orders, known)
        for inner, uses in blocks.items():
            similarity += _of_blocks(pair, found, inner, uses, orders)
        orders[found] = assigned(similarity)
    return orders


def _open(use: _Use, group: Group, left: Sequence[Group]) -> set[Group]:
    """The groups in the tensor whose order is not known; the group itself where it is there on another axis too."""
    return {other for other, _ in use.others if other in left or other is group}


def _known(pair: _Pair, group: Group, left: Sequence[Group]) -> tuple[float, int]:
    """The share of what the group moves that can be compared, and how much that is."""
    others = [each for each in left if each is not group]
    blocks = {use for uses in _blocks(pair, group, others).values() for use in uses}
    uses = pair.uses[group]
    known = sum(use.elements for use in uses if use in blocks or not _open(use, group, others))
    return known / max(1, sum(use.elements for use in uses)), known


def _blocks(pair: _Pair, group: Group, left: Sequence[Group]) -> dict[Group, list[_Use]]:
    """The uses in which a unit is a block of the units of one group that is not matched, by that group."""
    found: dict[Group, list[_Use]] = {}
    for use in pair.uses[group]:
        unknown = _open(use, group, left)
        if len(unknown) == 1:
            (inner,) = unknown
            if inner is not group and pair.apart(use, inner) is not None:
                found.setdefault(inner, []).append(use)
    return found


def _apart(use: _Use, inner: Group) -> Places | None:
    """(units, inner units, the rest): an axis taken apart where each of its elements is of one of either; else None."""
    moves = [move for other, move in use.others if other is inner]
    (move,) = moves if len(moves) == 1 else (None,)
    if move is None or move.axis != use.move.axis or move.places.size != use.move.places.size:
        return None
    unit, place, of_inner = (np.full(move.length, -1) for _ in range(3))
    for k, row in enumerate(use.move.places):
        unit[row], place[row] = k, np.arange(len(row))
    for k, row in enumerate(move.places):
        of_inner[row] = k
    elements = np.flatnonzero((unit >= 0) & (of_inner >= 0))
    units, inners = len(use.move.places), len(move.places)
    if len(elements) != use.move.places.size or len(elements) % (units * inners):
        return None
    elements = elements[np.lexsort((place[elements], of_inner[elements], unit[elements]))]
    shaped = elements.reshape(units, inners, -1)
    whole = (unit[shaped] == np.arange(units)[:, None, None]) & (
        of_inner[shaped] == np.arange(inners)[:, None]
    )
    return shaped if whole.all() else None


def _of_blocks(
    pair: _Pair, group: Group, inner: Group, uses: Sequence[_Use], orders: Mapping[Group, Order]
) -> Similarity:
    """[i, j]: what block j adds in the place of block i with its entries in their best order."""
    units, inners = group.size, inner.size
    total = torch.zeros(units * inners, units * inners, dtype=torch.float64)
    for use in uses:
        places = pair.apart(use, inner)
        assert places is not None  # `_blocks` has taken it apart
        rows = places.reshape(units * inners, -1)
        known = [(other, move) for other, move in use.others if other is not inner]
        name = use.move.tensor
        moved = _moved(pair.moving[name], known, orders)
        _add_products(total, _units(pair.fixed[name], use.move, rows), _units(moved, use.move, rows))
    apart = total.numpy().reshape(units, inners, units, inners).transpose(0, 2, 1, 3)
    out = np.empty((units, units))
    for i in range(units):
        for j in range(units):
            out[i, j] = apart[i, j][np.arange(inners), assigned(apart[i, j])].sum()
    return out


def assigned(similarity: Similarity) -> Order:
    """For each unit of the fixed network the one of the moving network that takes its place."""
    if not np.isfinite(similarity).all():
        raise InputError("the weights are too large: their products are beyond every float")
    return np.asarray(linear_sum_assignment(similarity, maximize=True)[1], dtype=np.int64)


def _moved(tensor: Tensor, moves: Sequence[tuple[Group, Move]], orders: Mapping[Group, Order]) -> Tensor:
    """A tensor with some of the groups on its axes in their new order."""
    for axis, whole in whole_axes((move, orders[group]) for group, move in moves).items():
        tensor = tensor.index_select(axis, torch.from_numpy(whole))
    return tensor


def _units(tensor: Tensor, move: Move, rows: Places) -> Tensor:
    """(units, everything that a unit is in this tensor)."""
    front = tensor.movedim(move.axis, 0)
    flat = rows.reshape(-1)
    if not np.array_equal(flat, np.arange(move.length)):
        front = front.index_select(0, torch.from_numpy(flat))
    return front.reshape(len(rows), -1)


def _add_products(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a · bᵀ in float64, block by block."""
    columns = max(1, BLOCK // len(a))
    for start in range(0, a.shape[1], columns):
        part = slice(start, start + columns)
        total.addmm_(a[:, part].double(), b[:, part].double().T)


def inner_product(a: Tensor, b: Tensor) -> float:
    """⟨a, b⟩ in float64."""
    flat = (a.reshape(-1), b.reshape(-1))
    return sum(
        float(torch.dot(*(x[k : k + BLOCK].double() for x in flat))) for k in range(0, a.numel(), BLOCK)
    )
