"""Permuting the units of groups in a state dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine import exact
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.symmetry.groups import Group, Move, Places

Order = Sequence[int] | Sequence[Sequence[int]] | Places  # of a group's units


def permute(state: Mapping[str, Tensor], orders: Mapping[Group, Order]) -> dict[str, Tensor]:
    """Permute the units of groups: unit k of the result is unit order[k] of `state`.

    Each order is a permutation of 0…size-1. Of units within blocks it may be one for each block, (blocks, units): then
    unit k of block b is unit order[b, k] of the block that has come there. `state` may hold some of the model's tensors
    only, as the momentum of an optimizer does. It is not changed; tensors that do not move are the same objects in the
    result.

    Raises:
        SettingsError: an order is not a permutation of the group's units.
        InputError: an order holds other things than whole numbers, or a tensor of `state` does not have the shape of
            the traced model's.
    """
    moves: dict[str, list[tuple[Move, Places]]] = {}
    for group, order in sorted(orders.items(), key=lambda each: each[0].within is not None):
        new = _checked(group, order)
        for move in group.moves:
            if move.tensor in state:
                _check(state[move.tensor], move)
                moves.setdefault(move.tensor, []).append((move, new))
    return {**state, **{name: moved(state[name], found) for name, found in moves.items()}}


def moved(tensor: Tensor, moves: Iterable[tuple[Move, Places]]) -> Tensor:
    """A tensor with some groups on its axes in a new order, blocks before what is within them.

    The same object where nothing moves.
    """
    index: dict[int, Places] = {}
    apart: list[tuple[Move, Places]] = []
    for move, order in moves:
        if order.ndim == 2 and move.across != move.axis:
            apart.append((move, order))
            continue
        whole = index.setdefault(move.axis, np.arange(move.length))
        if order.ndim == 1:
            whole[move.places] = whole[move.places[order]]
        else:
            whole[move.places] = whole[move.places[order[move.blocks].T, np.arange(move.places.shape[1])]]
    for axis, whole in index.items():
        if not np.array_equal(whole, np.arange(len(whole))):
            tensor = tensor.detach().index_select(axis, torch.from_numpy(whole).to(tensor.device))
    for move, order in apart:
        tensor = _moved_apart(tensor, move, order)
    return tensor


def _moved_apart(tensor: Tensor, move: Move, order: Places) -> Tensor:
    """A tensor with units on one axis that have another order for each element of another axis, its block's."""
    if np.array_equal(order, np.broadcast_to(np.arange(order.shape[1]), order.shape)):
        return tensor
    assert move.blocks is not None
    whole = np.tile(np.arange(move.length), (len(move.blocks), 1))
    for element, block in enumerate(move.blocks):
        whole[element, move.places] = move.places[order[block]]
    index = torch.from_numpy(whole if move.across < move.axis else whole.T).to(tensor.device)
    first, second = sorted((move.across, move.axis))
    index = index.reshape([size if k in (first, second) else 1 for k, size in enumerate(tensor.shape)])
    return tensor.detach().gather(move.axis, index.expand(tensor.shape))


def identity(group: Group) -> Places:
    """The order in which nothing moves, of the group's `shape`."""
    return np.broadcast_to(np.arange(group.size), group.shape).copy()


def random_order(group: Group, generator: np.random.Generator) -> Places:
    """A random order, of units within blocks one for each."""
    return generator.permuted(identity(group), axis=-1)


def inverse(orders: Mapping[Group, Places]) -> dict[Group, Places]:
    """The orders that undo others."""
    out = {}
    for group, order in orders.items():
        back = np.argsort(order, axis=-1)
        if order.ndim == 2 and group.within is not None and group.within in orders:
            back = back[np.argsort(orders[group.within])]
        out[group] = back
    return out


def composed(first: Mapping[Group, Places], second: Mapping[Group, Places]) -> dict[Group, Places]:
    """The orders that do what `first` does and then what `second` does; both have the same groups."""
    out = {}
    for group, order in first.items():
        then = second[group]
        if order.ndim == then.ndim == 1:
            out[group] = order[then]
            continue
        order, then = (np.broadcast_to(each, group.shape) for each in (order, then))
        if group.within is not None and group.within in second:
            order = order[second[group.within]]
        out[group] = np.take_along_axis(order, then, axis=-1)
    return out


def _checked(group: Group, order: Order) -> Places:
    """An order, (units,) or (blocks, units). Raises SettingsError for what is no permutation of the units."""
    named = f"the order for '{group.layer}'"
    given = exact.array(order, named, "units")
    shape = group.shape if given.shape == group.shape else (-1,)
    new = exact.ids(
        given.reshape(-1) if given.shape == group.shape else given, named, repeats=True, what="units"
    )
    new = new.reshape(shape)
    if new.shape[-1] != group.size or (np.sort(new, axis=-1) != np.arange(group.size)).any():
        raise SettingsError(
            f"the order for '{group.layer}' is no permutation of its {group.size} units",
            f"give each of 0…{group.size - 1} once",
        )
    return new


def _check(tensor: Tensor, move: Move) -> None:
    if tensor.ndim <= move.axis or tensor.shape[move.axis] != move.length:
        raise InputError(
            f"{move.tensor} is {tuple(tensor.shape)}; the traced model has {move.length} along axis {move.axis}",
            "trace the model that the state dict belongs to",
        )
