"""A forward pass in which every site is reduced to what its units did on every sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, fx, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import graph as graphs
from modeconn_cli.engine.networks.activations import sites
from modeconn_cli.engine.networks.activations.sites import Kind, Site
from modeconn_cli.engine.networks.graph import Graph
from modeconn_cli.engine.networks.layout import Unclear

Wanted = Literal["both", "pre", "post"]


@dataclass(frozen=True)
class Layer:
    """The units of one site, as tables name it; `positions` values of a unit belong to a sample."""

    kind: Kind
    name: str
    operation: str
    units: int
    positions: int
    zero: bool  # whether the nonlinearity has a zero region


@dataclass(frozen=True)
class Seen:
    """Of N samples, float64. `pre` and `post` [N]: the share of units that are dormant on the sample, NaN where a
    value is NaN; None where there are no such sites. Over samples, for the units U of all sites: `dormant` [U] counts
    the samples on which a unit is dormant; over samples and positions, for the units of the `post` sites: `total` [U]
    adds up |h|, `active` [U] counts |h| > ε.
    """

    pre: Tensor | None
    post: Tensor | None
    dormant: Tensor
    total: Tensor
    active: Tensor


class Observer(Protocol):
    layers: list[Layer]

    def __call__(self, images: Tensor) -> Seen: ...


def observer(
    model: nn.Module,
    example: Tensor,
    *,
    eps: float,
    wanted: Wanted = "both",
    note: Callable[[str], None] = lambda _: None,
) -> Observer:
    """What sees a model's units, under the weights that it has when it is called: images like `example` -> Seen.

    A model that cannot be traced is seen at its modules' outputs alone. Raises InputError where there is nothing to
    observe, or not what was wanted.
    """
    model.eval()
    try:
        graph = graphs.trace(model, tuple(example.shape[1:]))
        found, notes = sites.find(graph)
    except (InputError, Unclear) as error:
        if wanted == "post":
            raise InputError(f"nonlinearities cannot be found: {str(error).splitlines()[0]}") from error
        note(f"only the outputs of layers are seen: {str(error).splitlines()[0][:160]}")
        hooked = _Hooked(model, eps)
        hooked(example)  # which layers are called shows when they are
        return hooked
    for text in notes:
        note(text)
    found = [site for site in found if wanted in ("both", site.kind)]
    kinds = {site.kind for site in found}
    if wanted != "post" and "pre" not in kinds:
        raise InputError(
            "the network has no convolution and no linear layer", "use --site post for its nonlinearities"
        )
    if wanted == "post" and not kinds:
        raise InputError("no nonlinearity is known before the output layer", "use --site pre")
    if wanted == "both" and "post" not in kinds:
        note("no nonlinearity is known before the output layer: outputs of layers only")
    return _Traced(model, graph, found, eps)


class _Gathered:
    """Collects the maxima, sums and counts of one batch."""

    def __init__(self, layers: Sequence[Layer], eps: float) -> None:
        self.layers, self.eps = layers, eps
        self.dormant: list[Tensor | None] = [None] * len(layers)  # [N, units] each
        self.nan: dict[Kind, Tensor] = {}  # [N]
        self.total: dict[int, Tensor] = {}
        self.active: dict[int, Tensor] = {}

    def maxima(self, number: int, values: Tensor) -> None:
        """The largest value of every unit at a site, [N, units]."""
        kind = self.layers[number].kind
        bad = values.isnan().any(1)
        self.nan[kind] = self.nan[kind] | bad if kind in self.nan else bad
        self.dormant[number] = values <= self.eps

    def seen(self) -> Seen:
        flags: dict[Kind, Tensor] = {}
        for kind in ("pre", "post"):
            own = [d for layer, d in zip(self.layers, self.dormant, strict=True) if layer.kind == kind]
            called = [part for part in own if part is not None]
            if called:
                flags[kind] = torch.cat(called, 1)
        shares = {
            kind: flag.double().mean(1).masked_fill(self.nan[kind], torch.nan) for kind, flag in flags.items()
        }
        every = [part for part in self.dormant if part is not None]
        return Seen(
            shares.get("pre"),
            shares.get("post"),
            torch.cat([part.double().sum(0) for part in every]),
            *(
                torch.cat([sums[number] for number in sorted(sums)]) if sums else torch.zeros(0)
                for sums in (self.total, self.active)
            ),
        )


class _Traced(fx.Interpreter):
    """Runs the graph with the model's own tensors; every site is reduced at once, before anything overwrites it."""

    def __init__(self, model: nn.Module, graph: Graph, found: Sequence[Site], eps: float) -> None:
        super().__init__(graph.program.graph_module)
        self.layers = [Layer(s.kind, s.name, s.operation, s.units, s.positions, s.zero) for s in found]
        self._sites = {site.node.name: (number, site) for number, site in enumerate(found)}
        self._eps = eps
        self._state: Mapping[str, Tensor] = model.state_dict(keep_vars=True)  # live
        self._graph = graph
        self._gathered = _Gathered(self.layers, eps)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Seen:
        self._gathered = _Gathered(self.layers, self._eps)
        self.run(*self._graph.arguments(self._state, images))
        return self._gathered.seen()

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        if n.name in self._sites:
            self._reduce(*self._sites[n.name], out)
        return out

    def _reduce(self, number: int, site: Site, value: Tensor) -> None:
        size = value.abs() if site.absolute else value
        self._gathered.maxima(number, site.by_sample(size, _amax))
        if site.kind == "post":
            units = site.by_sample(size, _sum)
            self._gathered.total[number] = units.double().sum(0)
            # As float32: summing booleans is twenty times slower.
            over = torch.gt(size, self._eps, out=torch.empty_like(size))
            self._gathered.active[number] = site.by_sample(over, _sum).double().sum(0)


def _amax(value: Tensor, dims: tuple[int, ...]) -> Tensor:
    return value.amax(dims) if dims else value


def _sum(value: Tensor, dims: tuple[int, ...]) -> Tensor:
    return value.sum(dims) if dims else value


class _Hooked:
    """The outputs of convolution, linear and attention modules, for a model that cannot be traced."""

    def __init__(self, model: nn.Module, eps: float) -> None:
        self._model, self._eps = model, eps
        self._modules = {
            name: module for name, module in model.named_modules() if isinstance(module, _OBSERVED)
        }
        self.layers: list[Layer] = []

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Seen:
        found: list[tuple[Layer, Tensor]] = []
        with self._listening(found, len(images)):
            self._model(images)
        layers = [layer for layer, _ in found]
        if not layers:
            raise InputError("the network calls no convolution and no linear layer")
        if self.layers and layers != self.layers:
            raise InputError("the network calls other layers for one batch than for another")
        self.layers = layers
        gathered = _Gathered(layers, self._eps)
        for number, (_, values) in enumerate(found):
            gathered.maxima(number, values)
        return gathered.seen()

    @contextmanager
    def _listening(self, found: list[tuple[Layer, Tensor]], count: int) -> Iterator[None]:
        handles = []

        def listen(name: str, module: nn.Module) -> None:
            def heard(_module: nn.Module, _inputs: Any, output: Any) -> None:
                values = _maxima(module, output[0] if isinstance(output, tuple) else output)
                if len(values) != count:
                    raise InputError(
                        f"'{name}' gives {len(values)} rows for {count} samples",
                        "its units cannot be told by sample",
                    )
                again = sum(layer.name.partition("#")[0] == name for layer, _ in found)
                called = f"{name}#{again + 1}" if again else name
                found.append(
                    (Layer("pre", called, type(module).__name__, values.shape[1], 0, zero=False), values)
                )

            handles.append(module.register_forward_hook(heard))

        try:
            for name, module in self._modules.items():
                listen(name, module)
            yield
        finally:
            for handle in handles:
                handle.remove()


_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_OBSERVED = (*_CONVOLUTIONS, nn.Linear, nn.MultiheadAttention)


def _maxima(module: nn.Module, output: Tensor) -> Tensor:
    """[N, units]: convolutions have their units on axis 1, all others on the last."""
    if isinstance(module, nn.MultiheadAttention):
        output = output.abs() if module.batch_first else output.abs().movedim(1, 0)
    if isinstance(module, _CONVOLUTIONS):
        return output.flatten(2).amax(2)
    return output.flatten(1, -2).amax(1) if output.ndim > 2 else output
