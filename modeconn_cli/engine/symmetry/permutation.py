"""Permuting the units of groups in a state dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine import exact
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.symmetry.groups import Group, Move, Places

Order = Sequence[int] | Places  # of a group's units


def permute(state: Mapping[str, Tensor], orders: Mapping[Group, Order]) -> dict[str, Tensor]:
    """Permute the units of groups: unit k of the result is unit order[k] of `state`.

    Each order is a permutation of 0…size-1. `state` may hold some of the model's tensors only, as the momentum of an
    optimizer does. It is not changed; tensors that do not move are the same objects in the result.

    Raises:
        SettingsError: an order is not a permutation of the group's units.
        InputError: an order holds other things than whole numbers, or a tensor of `state` does not have the shape of
            the traced model's.
    """
    moved: dict[str, list[tuple[Move, Places]]] = {}
    for group, order in orders.items():
        new = exact.ids(order, f"the order for '{group.layer}'", repeats=True, what="units")
        if not np.array_equal(np.sort(new), np.arange(group.size)):
            raise SettingsError(
                f"the order for '{group.layer}' is no permutation of its {group.size} units",
                f"give each of 0…{group.size - 1} once",
            )
        for move in group.moves:
            if move.tensor in state:
                _check(state[move.tensor], move)
                moved.setdefault(move.tensor, []).append((move, new))
    changed = dict(state)
    for name, moves in moved.items():
        for axis, whole in whole_axes(moves).items():
            tensor = changed[name].detach()
            changed[name] = tensor.index_select(axis, torch.from_numpy(whole).to(tensor.device))
    return changed


def whole_axes(moves: Iterable[tuple[Move, Places]]) -> dict[int, Places]:
    """The order of all elements of each axis of a tensor, of the groups on it and the orders of their units; without
    the axes on which everything stays in its place.
    """
    index: dict[int, Places] = {}
    for move, order in moves:
        whole = index.setdefault(move.axis, np.arange(move.length))
        whole[move.places] = whole[move.places[order]]
    return {axis: whole for axis, whole in index.items() if not np.array_equal(whole, np.arange(len(whole)))}


def _check(tensor: Tensor, move: Move) -> None:
    if tensor.ndim <= move.axis or tensor.shape[move.axis] != move.length:
        raise InputError(
            f"{move.tensor} is {tuple(tensor.shape)}; the traced model has {move.length} along axis {move.axis}",
            "trace the model that the state dict belongs to",
        )
