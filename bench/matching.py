"""Bringing two VGG16 together: what the matching takes beside its matrix products and assignments, and a permutation
against reading the file.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import torchvision
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from bench import networks
from bench.pairs import Pair
from modeconn_cli.engine import symmetry
from modeconn_cli.engine.networks import checkpoints, graph, weights
from modeconn_cli.engine.results import files
from modeconn_cli.engine.symmetry import Symmetry, blocks, choose, match
from modeconn_cli.engine.symmetry.pair import Order, Similarity

SHAPE = (3, 32, 32)


def _two() -> tuple[Symmetry, dict[str, Tensor], dict[str, Tensor]]:
    model = networks.network()
    found = symmetry.find(graph.trace(model, SHAPE))
    sides = []
    for seed in (1, 2):
        generator = torch.Generator().manual_seed(seed)
        own = weights.parameters_of(model, model.state_dict())
        sides.append({name: torch.randn(t.shape, generator=generator) for name, t in own.items()})
    return found, sides[0], sides[1]


def weights_alone(_: Path) -> Pair:
    """Seconds, from two networks to the permutation."""
    found, fixed, moving = _two()
    return Pair(lambda: match.by_weights(found, fixed, moving))


def against_floor(_: Path) -> Pair:
    """The same against the products, in float64, and the assignments that it is made of."""
    found, fixed, moving = _two()
    products: list[tuple[int, int]] = []
    solved = []
    add, assigned = blocks.add_products, blocks.assigned

    def added(total: Tensor, a: Tensor, b: Tensor) -> None:
        products.append((a.shape[0], a.shape[1]))
        add(total, a, b)

    def kept(similarity: Similarity) -> Order:
        solved.append(similarity)
        return assigned(similarity)

    blocks.add_products, blocks.assigned = added, kept
    try:
        match.by_weights(found, fixed, moving)
    finally:
        blocks.add_products, blocks.assigned = add, assigned
    sizes = {size: [torch.randn(*size, dtype=torch.float64) for _ in range(2)] for size in set(products)}

    def floor() -> None:
        for size in products:
            torch.mm(sizes[size][0], sizes[size][1].T)
        for similarity in solved:
            linear_sum_assignment(similarity, maximize=True)

    facts = (f"{len(products)} products, {len(solved)} assignments",)
    return Pair(lambda: match.by_weights(found, fixed, moving), floor, facts)


def applied(folder: Path) -> Pair:
    """A permutation of every group against reading the checkpoint."""
    path, model = folder / "checkpoint-1.pt", networks.network()
    files.write_tensors(path, {"epoch": 1, "model_state": model.state_dict()})
    found, state = symmetry.find(graph.trace(model, SHAPE)), model.state_dict()
    orders = choose.orders_of_all(found, "random", 0)
    return Pair(lambda: symmetry.permute(state, orders), lambda: checkpoints.read(path))


def derive(_: Path, make: str) -> Pair:
    """Seconds, from a network of torchvision to its groups."""
    model: nn.Module = getattr(torchvision.models, make)()
    return Pair(lambda: symmetry.find(graph.trace(model, (3, 224, 224))))


resnet50, vit = partial(derive, make="resnet50"), partial(derive, make="vit_b_16")
