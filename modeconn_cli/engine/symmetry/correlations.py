"""How alike the elements of networks are at places of the graph: their correlation over samples and positions.

Data are streamed: of each place the memory holds one matrix for each two networks. What never changes correlates with
nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.flat import Runner
from modeconn_cli.engine.networks.graph import Graph
from modeconn_cli.engine.symmetry.pair import Similarity
from modeconn_cli.engine.symmetry.places import Place


@dataclass
class _Moments:
    """Means, variances and products of the elements of two networks at one place, over all rows so far, in float64."""

    count: int = 0
    mean: list[Tensor] = field(default_factory=list)  # of each network, [elements]
    square: list[Tensor] = field(default_factory=list)  # Σ (x − mean)²
    product: Tensor | None = None  # Σ (a − mean a)(b − mean b), [elements, elements]

    def add(self, both: tuple[Tensor, Tensor]) -> None:
        """Further rows, each [elements, rows], centred by their own means; what these differ by is added."""
        rows = both[0].shape[1]
        means = [each.double().mean(1) for each in both]
        centred = [each - mean[:, None].to(each.dtype) for each, mean in zip(both, means, strict=True)]
        squares = [each.double().square().sum(1) for each in centred]
        product = (centred[0] @ centred[1].T).double()
        if self.product is None:
            self.count, self.mean, self.square, self.product = rows, means, squares, product
            return
        share = self.count * rows / (self.count + rows)
        apart = [new - old for new, old in zip(means, self.mean, strict=True)]
        self.product += product + share * torch.outer(*apart)
        for k, (square, gap) in enumerate(zip(squares, apart, strict=True)):
            self.square[k] += square + share * gap.square()
            self.mean[k] += gap * rows / (self.count + rows)
        self.count += rows

    def correlation(self) -> Similarity:
        """[i, j]: element i of the first network with element j of the second; 0 where one of them never changes."""
        assert self.product is not None
        scales = []
        for mean, square in zip(self.mean, self.square, strict=True):
            tiny = 1e-12 * self.count * mean.square()  # what rounding leaves of a constant
            scales.append(torch.where(square > tiny, square.rsqrt(), 0.0))
        return (self.product * scales[0][:, None] * scales[1]).cpu().numpy()


class Recorder:
    """Runs the graph and lays out what is at the places."""

    def __init__(self, graph: Graph, places: Iterable[Place]) -> None:
        self._graph, self._runner = graph, Runner(graph.module)
        self._at: dict[fx.Node, list[Place]] = {}
        for place in places:
            self._at.setdefault(place.node, []).append(place)

    def of(self, state: Mapping[str, Tensor], images: Tensor) -> dict[Place, Tensor]:
        steps = self._runner.steps(*self._graph.arguments(state, images).values())
        return {place: place.laid_out(out) for node, out in steps for place in self._at.get(node, ())}


def correlations(
    graph: Graph,
    places: Sequence[Place],
    networks: Sequence[Mapping[str, Tensor]],
    batches: Iterable[Tensor],
) -> dict[tuple[int, int], dict[Place, Similarity]]:
    """By the numbers of two networks, the lower one first, and by place: [i, j] is the correlation of element i of the
    one with element j of the other. Raises InputError for activations that are not finite.
    """
    recorder = Recorder(graph, places)
    pairs = itertools.combinations(range(len(networks)), 2)
    moments = {pair: {place: _Moments() for place in places} for pair in pairs}
    for images in batches:
        seen = [recorder.of(state, images) for state in networks]
        for (one, other), of_pair in moments.items():
            for place, each in of_pair.items():
                each.add((seen[one][place], seen[other][place]))
    found = {
        pair: {place: each.correlation() for place, each in of_pair.items()}
        for pair, of_pair in moments.items()
    }
    for place, alike in ((place, alike) for of_pair in found.values() for place, alike in of_pair.items()):
        if not np.isfinite(alike).all():
            layer = next(iter(place.units)).layer
            raise InputError(f"the activations of '{layer}' are not finite", "match them by weights")
    return found
