"""Permuting the units of groups in a state dict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.symmetry.groups import Group, Move, Places, Symmetry

State = Mapping[str, Tensor]


def permute(
    state: State, symmetry: Symmetry, orders: Mapping[Group, Sequence[int]] | Mapping[int, Sequence[int]]
) -> dict[str, Tensor]:
    """Permute the units of groups: unit k of the result is unit order[k] of `state`.

    `orders` maps groups, or their numbers in `symmetry.groups`, to permutations of 0…size-1. `state` may hold some
    of the model's tensors only, as the momentum of an optimizer does. It is not changed; tensors that do not move
    are the same objects in the result.

    Raises:
        SettingsError: an order is not a permutation of the group's units.
        InputError: a tensor of `state` does not have the shape of the traced model's.
    """
    index: dict[tuple[str, int], Places] = {}
    for key, wanted in orders.items():
        group = symmetry.groups[key] if isinstance(key, int) else key
        new = np.asarray(wanted, dtype=np.int64).reshape(-1)
        if not np.array_equal(np.sort(new), np.arange(group.size)):
            raise SettingsError(
                f"the order for '{group.layer}' is no permutation of its {group.size} units",
                f"give each of 0…{group.size - 1} once",
            )
        for move in group.moves:
            if move.tensor not in state:
                continue
            where = (move.tensor, move.axis)
            _check(state[move.tensor], move)
            step = np.arange(move.length)
            step[move.places] = move.places[new]
            index[where] = index[where][step] if where in index else step
    changed = dict(state)
    for (name, axis), order in index.items():
        if not np.array_equal(order, np.arange(len(order))):
            tensor = changed[name].detach()
            changed[name] = tensor.index_select(axis, torch.from_numpy(order).to(tensor.device))
    return changed


def swap(
    state: State, symmetry: Symmetry, group: Group, pairs: Sequence[tuple[int, int]]
) -> dict[str, Tensor]:
    """Exchange the two units of each pair; the pairs must be disjoint.

    Raises:
        SettingsError: no pair, a unit out of range, or a unit named twice.
    """
    units = [unit for pair in pairs for unit in pair]
    valid = f"name 1 to {group.size // 2} pairs of different units, each of 0…{group.size - 1} at most once"
    if not units:
        raise SettingsError(f"no pair of units of '{group.layer}' to exchange", valid)
    for unit in units:
        if not 0 <= unit < group.size:
            raise SettingsError(f"'{group.layer}' has no unit {unit}", valid)
    twice = [unit for unit, count in Counter(units).items() if count > 1]
    if twice:
        raise SettingsError(f"unit {twice[0]} of '{group.layer}' is named twice", valid)
    order = list(range(group.size))
    for one, other in pairs:
        order[one], order[other] = other, one
    return permute(state, symmetry, {group: order})


def _check(tensor: Tensor, move: Move) -> None:
    if tensor.ndim <= move.axis or tensor.shape[move.axis] != move.length:
        raise InputError(
            f"{move.tensor} is {tuple(tensor.shape)}; the traced model has {move.length} along axis {move.axis}",
            "trace the model that the state dict belongs to",
        )
