"""Permuting the units of groups in a state dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    index: dict[tuple[str, int], Places] = {}
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
                whole = index.setdefault((move.tensor, move.axis), np.arange(move.length))
                whole[move.places] = whole[move.places[new]]
    changed = dict(state)
    for (name, axis), whole in index.items():
        if not np.array_equal(whole, np.arange(len(whole))):
            tensor = changed[name].detach()
            changed[name] = tensor.index_select(axis, torch.from_numpy(whole).to(tensor.device))
    return changed


def _check(tensor: Tensor, move: Move) -> None:
    if tensor.ndim <= move.axis or tensor.shape[move.axis] != move.length:
        raise InputError(
            f"{move.tensor} is {tuple(tensor.shape)}; the traced model has {move.length} along axis {move.axis}",
            "trace the model that the state dict belongs to",
        )
