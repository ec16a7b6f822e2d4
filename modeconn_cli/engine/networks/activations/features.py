"""The features of a network: all that its layers and nonlinearities give, a row per sample, under several weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, fx, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.activations.hooked import Hooked, rows
from modeconn_cli.engine.networks.activations.observe import looked_at
from modeconn_cli.engine.networks.activations.sites import Layer, Site
from modeconn_cli.engine.networks.flat import Runner
from modeconn_cli.engine.networks.graph import Graph


@dataclass(frozen=True)
class State:
    """What a network computes with: its tensors by name, and what is done to the values of some nodes of its graph."""

    tensors: Mapping[str, Tensor]
    corrections: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)


States = Sequence[State]


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
    if not isinstance(seen, Hooked) and not seen[1]:
        raise InputError("the network has no layer and no nonlinearity whose samples can be told apart")
    return _Listened(seen) if isinstance(seen, Hooked) else _InStep(*seen)


class _InStep:
    def __init__(self, graph: Graph, found: Sequence[Site]) -> None:
        self.layers = [site.layer for site in found]
        self._graph, self._sites = graph, {site.node: site for site in found}

    def __call__(self, states: States, images: Tensor) -> Iterator[list[Tensor]]:
        runs = [
            _Corrected(self._graph, state).steps(
                *self._graph.arguments(state.tensors, images.clone()).values()
            )
            for state in states
        ]
        for at in zip(*runs, strict=True):
            site = self._sites.get(at[0][0])
            if site is not None:
                yield [site.samples.first(value).flatten(1) for _, value in at]


class _Corrected(Runner):
    def __init__(self, graph: Graph, state: State) -> None:
        super().__init__(graph.module)
        self._corrections = state.corrections

    def compute(self, n: fx.Node) -> Any:
        out = super().compute(n)
        correction = self._corrections.get(n.name)
        return out if correction is None else correction(out)


class _Listened:
    """Of what cannot be traced, and so has no nodes that are corrected."""

    def __init__(self, hooked: Hooked) -> None:
        self.layers, self._hooked = hooked.layers, hooked

    def __call__(self, states: States, images: Tensor) -> Iterator[list[Tensor]]:
        yield from map(
            list, zip(*(self._hooked(images.clone(), state.tensors) for state in states), strict=True)
        )
