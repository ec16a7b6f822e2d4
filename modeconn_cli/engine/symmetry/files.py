"""Files that say how the units of a network were permuted: a swap's metadata, or one order per layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from modeconn_cli.engine import exact, names
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import graph
from modeconn_cli.engine.networks.subject import Subject
from modeconn_cli.engine.results import arrays, files, records
from modeconn_cli.engine.results.fingerprints import identify
from modeconn_cli.engine.settings.swap import LARGEST_SEED
from modeconn_cli.engine.symmetry import Group, Symmetry, find, group_of, permute
from modeconn_cli.engine.symmetry.choose import Mode, order_of_pairs, orders_of_all, place_in_blocks
from modeconn_cli.engine.symmetry.groups import Places
from modeconn_cli.engine.symmetry.permutation import inverse

Orders = dict[Group, Places]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_SEED


def _is_place(value: object) -> bool:
    """−1 is no place: of every layer, or of one whose name has no numbers."""
    return value == -1 or _is_count(value)


def _are_pairs(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, list) and len(each) == 2 for each in value)


# What a swap's metadata says, and whether a value can be that.
_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "layer_name": lambda value: value is None or isinstance(value, str),
    "block_idx": _is_place,
    "layer_idx": _is_place,
    "neuron_pairs": _are_pairs,
    "mode": lambda value: value in get_args(Mode),
    "seed": _is_count,
}


def read_metadata(path: Path) -> dict[str, Any]:
    """A swap's metadata. Raises InputError where the file is missing, broken or lacks what is needed."""
    document = records.read_object(path, "pass the metadata that mcx swap wrote")
    by_blocks = {"block_idx", "layer_idx"} <= document.keys()  # the original script's name no layer
    missing = [key for key in ("layer_name", "neuron_pairs") if key not in document]
    if missing and not (by_blocks and missing == ["layer_name"]):
        raise InputError(f"'{path}' lacks {', '.join(missing)}: it is not the metadata of mcx swap")
    for key, fits in _ENTRIES.items():
        if key in document and not fits(document[key]):
            raise InputError(
                f"'{path}' is not the metadata of mcx swap: its '{key}' is {str(document[key])[:40]}"
            )
    return document


def layer_of(metadata: dict[str, Any], symmetry: Symmetry) -> str | None:
    """The layer that a swap's metadata names, or the one at its block and index; None for every layer.

    Raises ValueError where no layer or several have that place.
    """
    if "layer_name" in metadata:
        name = metadata["layer_name"]
        return None if name is None else str(name)
    place = int(metadata["block_idx"]), int(metadata["layer_idx"])
    found = [layer for layer in symmetry.layers if place_in_blocks(layer) == place]
    if len(found) != 1:
        raise ValueError(f"{len(found)} layers are number {place[1]} of block {place[0]}")
    return found[0]


def orders_of_swap(metadata: dict[str, Any], path: Path, symmetry: Symmetry) -> Orders:
    """The permutation that a swap's metadata describes: the swapped network is `permute(original, orders)`."""
    try:
        given = [each for i, j in metadata["neuron_pairs"] for each in (i, j)]
        units = exact.ids(given, f"'{path}'", repeats=True, what="neurons").tolist()
        pairs = list(zip(units[::2], units[1::2], strict=True))
        mode, seed = metadata.get("mode", "pairs"), int(metadata.get("seed", 0))
        if mode != "pairs":
            return {group: np.asarray(order) for group, order in orders_of_all(symmetry, mode, seed).items()}
        layer = layer_of(metadata, symmetry)
        if layer is None:
            raise InputError("the swap's metadata names pairs but no layer")
        group = group_of(symmetry, layer)
        return {group: np.asarray(order_of_pairs(group, pairs))}
    except (SettingsError, ValueError, TypeError) as error:
        raise InputError(f"'{path}' does not fit the network: {error}") from error


def orders_to_first(path: Path, symmetry: Symmetry) -> Orders:
    """The permutation that brings the second network of a pair back to the first.

    `path` is the metadata of the swap that made the second network from the first, which is undone, or an .npz
    with an order [units] under the name of each layer that is permuted, or of each group (`Symmetry.ids`): unit k
    becomes unit order[k] of the second network. Of units within blocks it may be [blocks, units]. Raises InputError for
    anything else.
    """
    if path.suffix != ".npz":
        orders = orders_of_swap(read_metadata(path), path, symmetry)
        return inverse(orders)
    out: Orders = {}
    for layer, order in arrays.read_npz(path).items():
        try:
            group = symmetry.ids.get(layer) or group_of(symmetry, layer)
        except SettingsError as error:
            raise InputError(f"'{path}' does not fit the network: {error}") from error
        rows = order if order.shape == group.shape else order.reshape(1, -1)
        if order.dtype.kind not in "iu" or any(
            sorted(row) != list(range(group.size)) for row in np.atleast_2d(rows).tolist()
        ):
            raise InputError(f"'{path}': '{layer}' is no permutation of 0 … {group.size - 1}")
        if order.shape not in ((group.size,), group.shape) or any(
            _units(group) == _units(each) for each in out
        ):
            raise InputError(f"'{path}': '{layer}' is no list of units, or its group is there twice")
        out[group] = order.astype(np.int64)
    if not out:
        raise InputError(f"'{path}' holds no order of units")
    return out


def _units(group: Group) -> tuple[str, int, frozenset[tuple[int, ...]]]:
    """What its units are, whatever they are numbered by: where they lie in the first tensor that they are in."""
    move = group.moves[0]
    return move.tensor, move.axis, frozenset(map(tuple, move.places.tolist()))


def order_bytes(orders: Orders, symmetry: Symmetry) -> bytes:
    """The .npz that `orders_to_first` reads: every group's order under its name, int64 [units] or [blocks, units]."""
    return files.npz_bytes({name: orders[group] for name, group in symmetry.ids.items()})


def check_found_for(path: Path, second: Path, runtime: Runtime) -> None:
    """Warn where the record beside a file of mcx align says that its orders were found for another network."""
    document = records.peek_object(names.alignment_beside(path))
    try:
        moving = document["moving"]
        (known,) = [each for each in document["provenance"]["inputs"] if each["path"] == moving]
        found = identify(second)
        same = (found.size, found.sha256) == (known["size"], known["sha256"])
    except (KeyError, TypeError, ValueError):
        return  # not a record of that command, which knows nothing of these networks
    if not same:
        runtime.warn(f"'{path}' holds the orders that were found for '{moving}', and is used for '{second}'")


def with_second_permuted(opened: Subject, path: Path, runtime: Runtime) -> Subject:
    """Two networks, the units of the second in the order that a file says (`orders_to_first`)."""
    check_found_for(path, opened.checkpoints[1].path, runtime)
    found = find(graph.trace(opened.model, opened.arch.inputs(opened.model)))
    first, second = opened.checkpoints
    moved = permute(second.state, orders_to_first(path, found))
    return replace(opened, checkpoints=(first, replace(second, state=moved)))
