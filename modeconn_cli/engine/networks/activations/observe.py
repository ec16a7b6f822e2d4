"""A forward pass in which every site is reduced to what its units did on every sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError, McxError
from modeconn_cli.engine.networks import graph as graphs
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.activations import ranks, sites
from modeconn_cli.engine.networks.activations.hooked import Hooked, largest
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
    adds up |h|, `active` [U] counts |h| > ε. `grams` and `norms` [ranked layers]: of those layers whose ranks are
    wanted, one after the other, what `ranks.gram_and_norms` adds up.
    """

    pre: Tensor | None
    post: Tensor | None
    dormant: Tensor
    total: Tensor
    active: Tensor
    grams: Tensor
    norms: Tensor


class Observer(Protocol):
    layers: list[Layer]
    ranked: list[Layer]

    def __call__(self, images: Tensor) -> Activity: ...


def observer(
    model: nn.Module,
    example: Tensor,
    *,
    eps: float,
    wanted: Wanted = "both",
    ranked: Callable[[Sequence[Layer]], Sequence[Layer]] = lambda _: (),
    note: Callable[[str], None] = lambda _: None,
) -> Observer:
    """What sees a model's units, under the weights that it has when it is called: images like `example` -> Activity.

    `ranked` chooses, of all its layers, those whose ranks are wanted, in their order. A model that cannot be traced is
    seen at its modules' outputs alone, without ranks. Raises InputError where there is nothing to observe, or not what
    was wanted.
    """
    seen = looked_at(model, example, largest, note, wanted)
    if isinstance(seen, Hooked):
        return _Listening(seen, eps)
    graph, found = seen
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
    return _Traced(model, graph, found, eps, ranked([site.layer for site in found]))


def looked_at(
    model: nn.Module,
    example: Tensor,
    reduced: Callable[[nn.Module, Tensor], Tensor],
    note: Callable[[str], None],
    wanted: Wanted = "both",
) -> tuple[Graph, list[Site]] | Hooked:
    """Where a model's units are seen: the sites of its graph, else, `reduced`, the outputs of its modules.

    Raises InputError where there is nothing to see, or only outputs and those of nonlinearities are wanted.
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
            return Hooked(model, reduced, example, note)
        except McxError:
            raise
        except Exception as failed:  # of the user's own forward, under hooks that parts of it do not take
            said = (str(failed).strip() or type(failed).__name__).splitlines()[0]
            raise InputError(f"no layer can be seen: {reason}", f"under hooks: {said[:160]}") from failed
    for text in notes:
        note(text)
    return graph, found


@dataclass(frozen=True)
class _Units:
    """What the units of one site did on N samples; `total` and `active` as in Activity, after nonlinearities, `gram`
    and `norms` where ranks are wanted.
    """

    kind: Kind
    dormant: Tensor  # bool [N, units]
    unknown: Tensor  # bool [N]: a value is NaN
    total: Tensor | None = None
    active: Tensor | None = None
    gram: Tensor | None = None
    norms: Tensor | None = None

    @classmethod
    def of(cls, kind: Kind, largest: Tensor, eps: float, *sums: Tensor | None) -> _Units:
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
        return torch.cat([part.flatten() for part in known]) if known else torch.zeros(0)

    return Activity(
        share("pre"),
        share("post"),
        torch.cat([units.dormant.double().sum(0) for units in found]),
        joined([units.total for units in found]),
        joined([units.active for units in found]),
        joined([units.gram for units in found]),
        joined([units.norms for units in found]),
    )


class _Traced:
    """Runs the graph with the model's own tensors; every site is reduced at once, before anything overwrites it."""

    def __init__(
        self, model: nn.Module, graph: Graph, found: Sequence[Site], eps: float, ranked: Sequence[Layer]
    ) -> None:
        self.layers, self.ranked = [site.layer for site in found], list(ranked)
        self._sites = {site.node: site for site in found}
        self._eps, self._graph, self._runner = eps, graph, Runner(graph.module)
        self._state: Mapping[str, Tensor] = weights.tensors_of(model)  # live

    def __call__(self, images: Tensor) -> Activity:
        steps = self._runner.steps(*self._graph.arguments(self._state, images).values())
        return _activity([self._units(self._sites[node], out) for node, out in steps if node in self._sites])

    def _units(self, site: Site, value: Tensor) -> _Units:
        value = value.float() if value.dtype.itemsize < 4 else value  # under autocast: sums need more digits
        size = value.abs() if site.absolute else value
        largest = site.by_sample(size, torch.amax)
        if site.layer.kind == "pre":
            return _Units.of("pre", largest, self._eps)
        # As float32: summing booleans is twenty times slower.
        over = torch.gt(size, self._eps, out=torch.empty_like(size))
        sums = (site.by_sample(part, torch.sum).double().sum(0) for part in (size, over))
        wanted = site.layer in self.ranked
        gram, norms = ranks.gram_and_norms(site.features(value)) if wanted else (None, None)
        return _Units.of("post", largest, self._eps, *sums, gram, norms)


class _Listening:
    """Sees what the modules of a model that cannot be traced give."""

    def __init__(self, hooked: Hooked, eps: float) -> None:
        self.layers, self._hooked, self._eps = hooked.layers, hooked, eps
        self.ranked: list[Layer] = []

    def __call__(self, images: Tensor) -> Activity:
        return _activity([_Units.of("pre", most, self._eps) for most in self._hooked(images)])
