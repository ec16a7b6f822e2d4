"""One common frame for several networks: a permutation of each, so that any cycle of them is the identity.

Crisostomi et al. 2024 (arXiv:2405.17897). What is maximised is Σ over pairs of ⟨Pᵢ·Wᵢ, Pⱼ·Wⱼ⟩. Every network in its
turn is the frame that the others are matched to, and from there each is matched to the sum of the others, which never
lowers the sum over pairs, until none gains anything. The best end is kept. By activations the same is done with the
correlations of units in the place of the products of weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.networks.graph import Graph
from modeconn_cli.engine.symmetry import activity
from modeconn_cli.engine.symmetry.groups import Group, Symmetry
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
    return _in_any_order(networks, lambda by_size: _common_frame(symmetry, by_size, seed, restarts, tell))


def common_frame_by_activations(
    symmetry: Symmetry,
    graph: Graph,
    networks: Sequence[Mapping[str, Tensor]],
    batches: Callable[[], Iterable[Tensor]],
) -> Frame:
    """As `common_frame`, by how units act: the objective is the mean correlation of units that have one place, over
    pairs of networks. Arguments as of `activity.phases`.
    """

    def find(by_size: Sequence[Mapping[str, Tensor]]) -> Frame:
        orders, reached, reference = [Orders() for _ in by_size], dict[Group, float](), 0
        for phase in activity.phases(symmetry, graph, by_size, orders, batches):
            best = _frame_of_phase(phase, len(by_size))
            reached |= _alike(phase, best.orders)
            reference = best.reference
            for own, new in zip(orders, best.orders, strict=True):
                own |= new
        return Frame(tuple(orders), (activity.mean_over_units(reached),), reference)

    return _in_any_order(networks, find)


def _frame_of_phase(phase: activity.Phase, count: int) -> Frame:
    return _best(
        [[phase.as_they_are if i == k else phase.matched(k, i) for i in range(count)] for k in range(count)],
        lambda orders: activity.mean_over_units(_alike(phase, orders)),
        lambda orders, _: phase.improve(orders),
        seed=0,
    )


def _alike(phase: activity.Phase, orders: Sequence[Orders]) -> dict[Group, float]:
    """The mean correlation of each group's units that have one place, over all pairs of networks."""
    pairs = list(itertools.combinations(range(len(orders)), 2))
    return {
        group: float(np.mean([phase.paired(group, i, j, (orders[i], orders[j])) for i, j in pairs]))
        for group in phase.due
    }


def _in_any_order(
    networks: Sequence[Mapping[str, Tensor]], find: Callable[[Sequence[Mapping[str, Tensor]]], Frame]
) -> Frame:
    """The frame that is found of the networks by their size, seen from the first."""
    sizes = [
        sum(inner_product(tensor, tensor) for tensor in each.values() if tensor.is_floating_point())
        for each in networks
    ]
    by_size = sorted(range(len(networks)), key=sizes.__getitem__)
    found = find([networks[k] for k in by_size])
    orders = dict(zip(by_size, found.orders, strict=True))
    seen = tuple(composed(orders[k], inverse(orders[0])) for k in range(len(networks)))
    return Frame(seen, found.objective, by_size[found.reference])


def _best(
    starts: Sequence[list[Orders]],
    objective: Callable[[Sequence[Orders]], float],
    improve: Callable[[list[Orders], np.random.Generator], float],
    seed: int,
) -> Frame:
    """The best frame that is reached from the orders of all networks in the frame of each."""
    best: Frame | None = None
    for k, orders in enumerate(starts):
        generator = np.random.default_rng(seed)
        history = [objective(orders)]
        while len(history) < MOST_SWEEPS and improve(orders, generator) > 0:
            history.append(objective(orders))
        if best is None or history[-1] > best.objective[-1]:
            best = Frame(tuple(orders), tuple(history), k)
    assert best is not None
    return best


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
    best = _best(
        [[dict(between.get((k, i), unmoved)) for i in range(count)] for k in range(count)],
        lambda orders: _objective(networks, orders),
        lambda orders, generator: _round(symmetry, networks, orders, generator),
        seed,
    )
    begin = _objective(networks, [unmoved] * count)
    return Frame(best.orders, (begin, *best.objective), best.reference)


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
