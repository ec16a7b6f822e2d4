"""One common frame for several networks: a permutation of each, so that any cycle of them is the identity.

Crisostomi et al. 2024 (arXiv:2405.17897). What is maximised is Σ over pairs of ⟨Pᵢ·Wᵢ, Pⱼ·Wⱼ⟩. Every network in its
turn is the frame that the others are matched to, and from there each is matched to the sum of the others, which never
lowers the sum over pairs, until none gains anything. The best end is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.symmetry.groups import Symmetry
from modeconn_cli.engine.symmetry.match import MOST_SWEEPS, by_weights, improve
from modeconn_cli.engine.symmetry.pair import Orders, inner_product
from modeconn_cli.engine.symmetry.permutation import composed, identity, inverse, permute


@dataclass(frozen=True)
class Frame:
    """`permute(networks[i], orders[i])` are in the common frame, in which the first network stays as it is.

    `objective` is the sum over pairs: of the networks as they were, with the network `reference` as the frame, and
    after each round in which all were matched to the others.
    """

    orders: tuple[Orders, ...]
    objective: tuple[float, ...]
    reference: int


def common_frame(
    symmetry: Symmetry,
    networks: Sequence[Mapping[str, Tensor]],
    *,
    seed: int = 0,
    restarts: int = 1,
    tell: Callable[[int, int], None] = lambda *_: None,
) -> Frame:
    """Match the parameters of two networks or more to each other; in whichever order they come, the same is found.

    `tell` hears of every pair that has been matched: how many, and of how many.
    """
    sizes = [sum(inner_product(tensor, tensor) for tensor in each.values()) for each in networks]
    by_size = sorted(range(len(networks)), key=sizes.__getitem__)
    found = _common_frame(symmetry, [networks[k] for k in by_size], seed, restarts, tell)
    orders = dict(zip(by_size, found.orders, strict=True))
    # As they are seen from the first network, whose units stay in their places.
    seen = tuple(composed(orders[k], inverse(orders[0])) for k in range(len(networks)))
    return Frame(seen, found.objective, by_size[found.reference])


def _common_frame(
    symmetry: Symmetry,
    networks: Sequence[Mapping[str, Tensor]],
    seed: int,
    restarts: int,
    tell: Callable[[int, int], None],
) -> Frame:
    count = len(networks)
    pairs = list(itertools.combinations(range(count), 2))
    between: dict[tuple[int, int], Orders] = {}
    for done, (i, j) in enumerate(pairs):
        tell(done, len(pairs))
        between[i, j] = by_weights(symmetry, networks[i], networks[j], seed=seed, restarts=restarts).orders
        between[j, i] = inverse(between[i, j])
    tell(len(pairs), len(pairs))
    unmoved = {group: identity(group) for group in symmetry.groups}
    begin = _objective(networks, [unmoved] * count)
    best: Frame | None = None
    for k in range(count):
        orders = [dict(between.get((k, i), unmoved)) for i in range(count)]
        generator = np.random.default_rng(seed)
        history = [begin, _objective(networks, orders)]
        while len(history) < MOST_SWEEPS and _round(symmetry, networks, orders, generator) > 0:
            history.append(_objective(networks, orders))
        if best is None or history[-1] > best.objective[-1]:
            best = Frame(tuple(orders), tuple(history), k)
    assert best is not None
    return best


def _round(
    symmetry: Symmetry,
    networks: Sequence[Mapping[str, Tensor]],
    orders: list[Orders],
    generator: np.random.Generator,
) -> float:
    """Match every network to the others in its turn; what the sum over pairs gains."""
    return sum(_matched_to_others(symmetry, networks, orders, k, generator) for k in range(len(networks)))


def _matched_to_others(
    symmetry: Symmetry,
    networks: Sequence[Mapping[str, Tensor]],
    orders: list[Orders],
    k: int,
    generator: np.random.Generator,
) -> float:
    """Match one network to the sum of the others; what the sum over pairs gains."""
    others: dict[str, Tensor] = {}
    for i, (network, order) in enumerate(zip(networks, orders, strict=True)):
        if i == k:
            continue
        for name, tensor in permute(network, order).items():
            others[name] = others[name] + tensor.double() if name in others else tensor.double()
    orders[k] = dict(orders[k])
    return improve(symmetry, others, networks[k], orders[k], generator)


def _objective(networks: Sequence[Mapping[str, Tensor]], orders: Sequence[Orders]) -> float:
    """Σ over pairs: half of what the square of the sum is more than the sum of the squares."""
    total = 0.0
    moved = [permute(network, order) for network, order in zip(networks, orders, strict=True)]
    for name in networks[0]:
        tensors = [each[name] for each in moved]
        together = torch.stack([tensor.double() for tensor in tensors]).sum(0)
        own = sum(inner_product(tensor, tensor) for tensor in tensors)
        total += 0.5 * (inner_product(together, together) - own)
    return total
