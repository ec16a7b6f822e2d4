"""The features of a network: all that its layers and nonlinearities give, a row per sample, under several weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from modeconn_cli.engine.networks.activations.hooked import Hooked, rows
from modeconn_cli.engine.networks.activations.observe import looked_at
from modeconn_cli.engine.networks.activations.sites import Layer, Site
from modeconn_cli.engine.networks.flat import Runner
from modeconn_cli.engine.networks.graph import Graph

States = Sequence[Mapping[str, Tensor]]


class Features(Protocol):
    layers: list[Layer]

    def __call__(self, states: States, images: Tensor) -> Iterator[list[Tensor]]:
        """Of each of `layers` in turn the features under every state, [N, features]; they are not to be kept: the
        networks go on in step, and the next layer may write into them.
        """
        ...


def features(model: nn.Module, example: Tensor, note: Callable[[str], None]) -> Features:
    """The features of a model for images like `example`.

    Of a model that cannot be traced they are its modules' outputs alone. Raises InputError where nothing is seen.
    """
    seen = looked_at(model, example, rows, note)
    return _Listened(seen) if isinstance(seen, Hooked) else _InStep(*seen)


class _InStep:
    def __init__(self, graph: Graph, found: Sequence[Site]) -> None:
        self.layers = [site.layer for site in found]
        self._graph, self._sites = graph, {site.node: site for site in found}

    def __call__(self, states: States, images: Tensor) -> Iterator[list[Tensor]]:
        runs = [
            Runner(self._graph.module).steps(*self._graph.arguments(state, images.clone()).values())
            for state in states
        ]
        for at in zip(*runs, strict=True):
            site = self._sites.get(at[0][0])
            if site is not None:
                yield [site.samples.first(value).flatten(1) for _, value in at]


class _Listened:
    def __init__(self, hooked: Hooked) -> None:
        self.layers, self._hooked = hooked.layers, hooked

    def __call__(self, states: States, images: Tensor) -> Iterator[list[Tensor]]:
        yield from map(list, zip(*(self._hooked(images.clone(), state) for state in states), strict=True))
