"""A forward pass in which every site is reduced to what its units did on every sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, fx, nn

from modeconn_cli.engine.errors import InputError, McxError
from modeconn_cli.engine.networks import graph as graphs
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.activations import sites
from modeconn_cli.engine.networks.activations.sites import Kind, Layer, Site
from modeconn_cli.engine.networks.flat import Runner
from modeconn_cli.engine.networks.graph import Graph
from modeconn_cli.engine.networks.sample_axis import Inseparable

Wanted = Literal["both", "pre", "post"]


@dataclass(frozen=True)
class Activity:
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

    def __call__(self, images: Tensor) -> Activity: ...


def observer(
    model: nn.Module,
    example: Tensor,
    *,
    eps: float,
    wanted: Wanted = "both",
    note: Callable[[str], None] = lambda _: None,
) -> Observer:
    """What sees a model's units, under the weights that it has when it is called: images like `example` -> Activity.

    A model that cannot be traced is seen at its modules' outputs alone. Raises InputError where there is nothing to
    observe, or not what was wanted.
    """
    model.eval()
    try:
        graph = graphs.trace(model, tuple(example.shape[1:]))
        found, notes = sites.find(graph)
    except (InputError, Inseparable) as error:
        reason = str(error).splitlines()[0]
        if wanted == "post":
            raise InputError(f"nonlinearities cannot be found: {reason}") from error
        note(f"only the outputs of layers are seen: {reason[:160]}")
        try:
            return _Hooked(model, eps, example, note)
        except McxError:
            raise
        except Exception as failed:  # of the user's own forward, under hooks that parts of it do not take
            said = (str(failed).strip() or type(failed).__name__).splitlines()[0]
            raise InputError(f"no layer can be seen: {reason}", f"under hooks: {said[:160]}") from failed
    for text in notes:
        note(text)
    found = [site for site in found if wanted in ("both", site.layer.kind)]
    kinds = {site.layer.kind for site in found}
    if wanted != "post" and "pre" not in kinds:
        raise InputError(
            "the network has no convolution and no linear layer", "use --site post for its nonlinearities"
        )
    if wanted == "post" and not kinds:
        raise InputError("no nonlinearity is known before the output layer", "use --site pre")
    if wanted == "both" and "post" not in kinds:
        note("no nonlinearity is known before the output layer: outputs of layers only")
    return _Traced(model, graph, found, eps)


@dataclass(frozen=True)
class _Units:
    """What the units of one site did on N samples; `total` and `active` as in Activity, after nonlinearities."""

    kind: Kind
    dormant: Tensor  # bool [N, units]
    unknown: Tensor  # bool [N]: a value is NaN
    total: Tensor | None = None
    active: Tensor | None = None

    @classmethod
    def of(cls, kind: Kind, largest: Tensor, eps: float, *sums: Tensor) -> _Units:
        """From the largest value of every unit, [N, units]."""
        return cls(kind, largest <= eps, largest.isnan().any(1), *sums)


def _activity(found: Sequence[_Units]) -> Activity:
    def share(kind: Kind) -> Tensor | None:
        own = [units for units in found if units.kind == kind]
        if not own:
            return None
        unknown = torch.stack([units.unknown for units in own]).any(0)
        dormant = torch.cat([units.dormant for units in own], 1)
        return dormant.double().mean(1).masked_fill(unknown, torch.nan)

    def joined(sums: Sequence[Tensor | None]) -> Tensor:
        known = [part for part in sums if part is not None]
        return torch.cat(known) if known else torch.zeros(0)

    return Activity(
        share("pre"),
        share("post"),
        torch.cat([units.dormant.double().sum(0) for units in found]),
        joined([units.total for units in found]),
        joined([units.active for units in found]),
    )


class _Traced(Runner):
    """Runs the graph with the model's own tensors; every site is reduced at once, before anything overwrites it."""

    def __init__(self, model: nn.Module, graph: Graph, found: Sequence[Site], eps: float) -> None:
        super().__init__(graph.module)
        self.layers = [site.layer for site in found]
        self._sites = {site.node: site for site in found}
        self._eps, self._graph = eps, graph
        self._state: Mapping[str, Tensor] = weights.tensors_of(model)  # live
        self._found: list[_Units] = []

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Activity:
        self._found = []
        self.run(*self._graph.arguments(self._state, images).values())
        return _activity(self._found)

    def compute(self, n: fx.Node) -> Any:
        out = super().compute(n)
        if n in self._sites:
            self._found.append(self._units(self._sites[n], out))
        return out

    def _units(self, site: Site, value: Tensor) -> _Units:
        value = value.float() if value.dtype.itemsize < 4 else value  # under autocast: sums need more digits
        size = value.abs() if site.absolute else value
        largest = site.by_sample(size, torch.amax)
        if site.layer.kind == "pre":
            return _Units.of("pre", largest, self._eps)
        # As float32: summing booleans is twenty times slower.
        over = torch.gt(size, self._eps, out=torch.empty_like(size))
        sums = (site.by_sample(part, torch.sum).double().sum(0) for part in (size, over))
        return _Units.of("post", largest, self._eps, *sums)


class _Hooked:
    """The outputs of convolution, linear and attention modules, for a model that cannot be traced.

    Raises InputError for a model of which a part is a script, whose layers take no hooks.
    """

    def __init__(self, model: nn.Module, eps: float, example: Tensor, note: Callable[[str], None]) -> None:
        self._model, self._eps = model, eps
        scripted = [name for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
        if scripted:
            raise InputError(
                f"'{scripted[0]}' is a script, whose layers cannot be seen",
                "make the network without torch.jit.script",
            )
        self._names: dict[nn.Module, str] = {
            part: name for name, part in model.named_modules() if isinstance(part, _OBSERVED)
        }
        self.layers: list[Layer] = []  # which of them are called shows when they are
        folded = set[str]()
        with torch.no_grad():
            for images in (example[:1], torch.cat([example[:1]] * 3)):
                calls = self._called(images)
                folded |= {layer.name for layer, largest in calls if len(largest) != len(images)}
        self.layers = [layer for layer, _ in calls if layer.name not in folded]
        self._all = [layer for layer, _ in calls]
        if not calls:
            raise InputError("the network calls no convolution and no linear layer")
        if folded:
            names = [layer.name for layer in self._all if layer.name in folded]
            if not self.layers:
                raise InputError(
                    f"'{names[0]}' gives no row per sample", "its units cannot be told by sample"
                )
            note(f"left out, as they give no row per sample: {', '.join(names)}")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Activity:
        calls = self._called(images)
        if [layer for layer, _ in calls] != self._all:
            raise InputError("the network calls other layers for one batch than for another")
        kept = {layer.name for layer in self.layers}
        return _activity([_Units.of("pre", most, self._eps) for layer, most in calls if layer.name in kept])

    def _called(self, images: Tensor) -> list[tuple[Layer, Tensor]]:
        """Every layer that is called, with the largest values of its units, a row per sample."""
        found: list[tuple[Layer, Tensor]] = []

        def heard(module: nn.Module, _inputs: Any, output: Any) -> None:
            name = self._names.get(module)
            if name is None:  # of a copy of the network, which is tried
                return
            largest = _largest(module, output[0] if isinstance(output, tuple) else output)
            again = sum(layer.name.partition("#")[0] == name for layer, _ in found)
            called = f"{name}#{again + 1}" if again else name
            found.append(
                (Layer("pre", called, type(module).__name__, largest.shape[1], 0, zero=False), largest)
            )

        handles = [module.register_forward_hook(heard) for module in self._names]
        try:
            self._model(images)
        finally:
            for handle in handles:
                handle.remove()
        return found


_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_OBSERVED = (*_CONVOLUTIONS, nn.Linear, nn.MultiheadAttention)


def _largest(module: nn.Module, output: Tensor) -> Tensor:
    """The largest value of every unit, [N, units]: of convolutions on axis 1, of all others on the last."""
    if isinstance(module, nn.MultiheadAttention):
        output = output.abs() if module.batch_first else output.abs().movedim(1, 0)
    if isinstance(module, _CONVOLUTIONS):
        return output.flatten(2).amax(2)
    return output.flatten(1, -2).amax(1) if output.ndim > 2 else output
