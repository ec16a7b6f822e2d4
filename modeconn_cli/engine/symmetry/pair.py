"""Two networks of one architecture, and Σ ⟨A, P·B⟩ over their tensors.

Sums are in float64. Tensors are read where they are: the memory is a group's tensors in blocks and a matrix of the
group's size; where two groups cross within blocks (query heads and their entries) it is those tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modeconn_cli.engine.symmetry.groups import Group, Move, Places, Symmetry
from modeconn_cli.engine.symmetry.permutation import moved

Order = Places  # of a group's units
Orders = dict[Group, Order]
Similarity = npt.NDArray[np.float64]

BLOCK = 1 << 22  # elements of a tensor that are in float64 at a time
ROUNDING = 1e-13  # of the largest objective there could be: a smaller gain is none


@dataclass(frozen=True, eq=False)
class Use:
    """A group on an axis of a tensor, and what else moves in that tensor."""

    move: Move
    others: tuple[tuple[Group, Move], ...]
    elements: int
    taken_apart: dict[frozenset[Group], list[Part] | None] = field(default_factory=dict)  # by groups within


@dataclass(frozen=True, eq=False)
class Part:
    """Elements of some axes of a tensor, flattened, by blocks and the units in them: [blocks, *units, the rest]."""

    inner: tuple[Group, ...]
    elements: Places
    axes: tuple[int, ...]


class Pair:
    """Two networks of one architecture: what each group moves in them.

    `groups` are those that are within none, `inner` those within each, `every` all of them. Blocks that cannot be
    exchanged are among them.
    """

    def __init__(self, symmetry: Symmetry, fixed: Mapping[str, Tensor], moving: Mapping[str, Tensor]) -> None:
        self.fixed, self.moving = fixed, moving
        self.groups = tuple(dict.fromkeys(map(root, symmetry.groups)))
        self.inner: dict[Group, list[Group]] = {group: [] for group in self.groups}
        self.every = every_group(symmetry)
        in_tensor: dict[str, list[tuple[Group, Move]]] = {}
        for group in self.every:
            if group.within is not None:
                self.inner[group.within].append(group)
            for move in group.moves:
                if move.tensor in fixed:
                    in_tensor.setdefault(move.tensor, []).append((group, move))
        self.in_tensor = in_tensor
        self.uses: dict[Group, list[Use]] = {group: [] for group in self.every}
        for name, found in in_tensor.items():
            for k, (group, move) in enumerate(found):
                others = tuple(found[:k] + found[k + 1 :])
                self.uses[group].append(Use(move, others, fixed[name].numel()))
        norms = [inner_product(side[name], side[name]) for side in (fixed, moving) for name in in_tensor]
        half = len(norms) // 2
        self.tolerance = ROUNDING * float(np.sqrt(sum(norms[:half]) * sum(norms[half:])))

    def neighbours(self, group: Group) -> set[Group]:
        """The groups, of those within none, whose order the assignment of this one depends on."""
        uses = [use for each in (group, *self.inner[group]) for use in self.uses[each]]
        return {root(other) for use in uses for other, _ in use.others} - {group}

    def is_linear(self, group: Group) -> bool:
        """Whether the objective is linear in the group's permutation: it moves one axis of each tensor."""
        return not any(other is group for use in self.uses[group] for other, _ in use.others)

    def objective(self, orders: Mapping[Group, Order], names: Iterable[str] | None = None) -> float:
        """Σ ⟨A, P·B⟩ over some of the tensors, all that anything moves in where none are named."""
        total = 0.0
        for name in self.in_tensor if names is None else names:
            total += inner_product(self.fixed[name], self.moved(name, self.in_tensor[name], orders))
        return total

    def moved(self, name: str, moves: Sequence[tuple[Group, Move]], orders: Mapping[Group, Order]) -> Tensor:
        """A tensor of the moving network with some of the groups on its axes in their new order."""
        return moved(self.moving[name], [(move, orders[group]) for group, move in moves])


def every_group(symmetry: Symmetry) -> tuple[Group, ...]:
    """All groups whose units have an order, also blocks that cannot be exchanged; those within none first."""
    inner = (group for group in symmetry.groups if group.within is not None)
    return tuple(dict.fromkeys([*map(root, symmetry.groups), *inner]))


def root(group: Group) -> Group:
    """The group that a group is within, itself where it is within none."""
    return group.within or group


def inner_product(a: Tensor, b: Tensor) -> float:
    """⟨a, b⟩ in float64."""
    flat = (a.reshape(-1), b.reshape(-1))
    return sum(
        float(torch.dot(*(x[k : k + BLOCK].double() for x in flat))) for k in range(0, a.numel(), BLOCK)
    )
