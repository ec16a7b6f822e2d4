"""Which units a swap exchanges: the layer, the pairs, or whole permutations of every hidden layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import nn

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.symmetry import Group, Symmetry

Mode = Literal["pairs", "mirror", "random"]
Pair = tuple[int, int]


def layer_at_depth(model: nn.Module, symmetry: Symmetry, depth: str) -> str:
    """The layer of a depth: the one the model declares, else the first, middle or last group's."""
    declared = getattr(model, "depths", {})
    if depth in declared:
        return str(declared[depth])
    if not symmetry.groups:
        raise InputError("the network has no units that can be exchanged")
    count = len(symmetry.groups)
    return symmetry.groups[{"early": 0, "mid": count // 2, "late": count - 1}[depth]].layer


def draw_pairs(size: int, count: int, seed: int, layer: str) -> list[Pair]:
    """Disjoint pairs as the original draws them: entries 2i and 2i + 1 of a seeded shuffle of 0 … size − 1."""
    if count > size // 2:
        raise SettingsError(
            f"--num-swaps {count} is too many for '{layer}' with {size} exchangeable units",
            f"choose 1 to {size // 2}" if size > 1 else "this layer has nothing to exchange",
        )
    units = np.arange(size)
    np.random.RandomState(seed).shuffle(units)
    return [(int(units[2 * i]), int(units[2 * i + 1])) for i in range(count)]


def parse_pairs(words: Sequence[str]) -> list[Pair]:
    """`228:6` -> (228, 6)."""
    out = []
    for word in words:
        found = re.fullmatch(r"(\d+):(\d+)", word.strip())
        if found is None:
            raise SettingsError(f"--pairs: '{word}' is not two unit numbers", "write them as 228:6,3:9")
        out.append((int(found[1]), int(found[2])))
    return out


def orders_of_all(symmetry: Symmetry, mode: Mode, seed: int) -> dict[Group, list[int]]:
    """A permutation of every group: reversed (mirror) or random."""
    if mode == "mirror":
        return {group: list(range(group.size))[::-1] for group in symmetry.groups}
    generator = np.random.RandomState(seed)
    return {group: generator.permutation(group.size).tolist() for group in symmetry.groups}


def order_of_pairs(group: Group, pairs: Sequence[Pair]) -> list[int]:
    """The permutation that exchanges the pairs. Raises SettingsError for units that cannot be exchanged."""
    valid = f"units of '{group.layer}' are 0 … {group.size - 1}, each may be named once"
    order = list(range(group.size))
    seen: set[int] = set()
    for pair in pairs:
        for unit in pair:
            if not 0 <= unit < group.size:
                raise SettingsError(f"'{group.layer}' has no unit {unit}", valid)
            if unit in seen:
                raise SettingsError(f"unit {unit} of '{group.layer}' is named twice", valid)
            seen.add(unit)
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
    return order


def place_in_blocks(layer: str | None) -> tuple[int, int]:
    """Block and layer index of a module path that ends with two numbers, else (−1, −1)."""
    found = re.search(r"(?:^|\.)(\d+)\.(\d+)$", layer or "")
    return (int(found[1]), int(found[2])) if found else (-1, -1)
