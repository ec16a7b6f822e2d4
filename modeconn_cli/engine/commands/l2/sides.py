"""Networks as Python callers hold them: modules, state dicts or paths."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from modeconn_cli.engine.commands.l2.functions import Comparison, FunctionalDistance
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import checkpoints, distances, models, sums, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.networks.distances import Distance
from modeconn_cli.engine.samples.loaders import Loaded, check, check_labels, evaluating
from modeconn_cli.engine.samples.per_sample.fisher import DiagonalFisher, Kind
from modeconn_cli.engine.settings.shared import ModelSettings

AT_ONCE = 256  # inputs of a tensor that go through a network together

Side = nn.Module | Mapping[str, Tensor] | str | Path
Data = Tensor | Iterable[Any]  # inputs [N, …], or batches of (inputs, labels) or (inputs, labels, ids)


def distance(first: Side, second: Side) -> Distance:
    """Over the parameters of both. Raises InputError where they are not alike, and for NaN or infinity."""
    module = next((side for side in (first, second) if isinstance(side, nn.Module)), None)
    named = None if module is None else [name for name, _ in module.named_parameters()]
    a, b = (parameters(side, named) for side in (first, second))
    weights.check_alike(a, b, _name(first, "the first"), _name(second, "the second"))
    for side, found in ((first, a), (second, b)):
        checkpoints.check_finite(found, Path(_name(side, "network")))
    return distances.l2(a, b)


def weighted(first: Side, second: Side, data: Data, kind: Kind, seed: int) -> float:
    """√Σ F (a − b)² with F the mean of both networks' diagonal Fisher information on the data."""
    if kind == "empirical" and isinstance(data, Tensor):
        raise InputError("inputs alone have no labels", "pass batches of (inputs, labels), or kind='true'")
    one, other = _modules(first, second)
    a, b = parameters(one), parameters(other)
    weights.check_alike(a, b, "the first", "the second")
    information: list[DiagonalFisher] = []
    with _ready(one, other) as place, _taking_gradients(one, other):
        for batch in _batches(data, place):  # once, as a loader may shuffle
            for k, model in enumerate((one, other)):
                if len(information) == k:
                    classes = check(model, batch)
                    information.append(DiagonalFisher(model, tuple(batch.images.shape[1:]), kind, seed))
                check_labels(batch.labels, classes)
                information[k].add(batch.images, batch.labels, batch.ids)
    total = 0.0
    for found in information:
        total += math.fsum(sums.weighted(a, b, found.information()).values()) / 2
    return math.sqrt(total)


def in_function(first: Side, second: Side, data: Data) -> FunctionalDistance:
    """What two networks answer on the same inputs."""
    one, other = _modules(first, second)
    found = Comparison()
    with _ready(one, other) as place, torch.no_grad():
        for batch in _batches(data, place):  # once, as a loader may shuffle
            found.add(one(batch.images), other(batch.images))
    return found.result()


def parameters(side: Side, named: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The parameters of a network, by name; of a path as pages of its file.

    `named` says which they are where the other side is a module: a state dict does not tell buffers from parameters.
    """
    if isinstance(side, nn.Module):
        return {name: p.detach() for name, p in side.named_parameters()}
    checkpoint = None if isinstance(side, Mapping) else _read(side)
    state = cast("Mapping[str, Tensor]", side) if checkpoint is None else checkpoint.state
    if named is not None and set(named) <= set(state):
        return {name: state[name] for name in named}
    return weights.parameters_in(state) if checkpoint is None else checkpoint.parameters()


def _read(side: str | Path) -> Checkpoint:
    checkpoint = checkpoints.read(Path(side), mapped=True)
    if checkpoint.is_curve:
        raise InputError(f"'{side}' is a curve, not a network", "take a point of it with mcx curve extract")
    return checkpoint


def _name(side: Side, otherwise: str) -> str:
    return str(side) if isinstance(side, str | Path) else otherwise


def _modules(first: Side, second: Side) -> tuple[nn.Module, nn.Module]:
    """Both as modules; a state dict is loaded into a copy of the other's module."""
    found = [_module(side) for side in (first, second)]
    known = next((module for module in found if module is not None), None)
    if known is None:
        raise InputError("two state dicts do not say what they compute", "pass a module for one of them")
    out = []
    for side, module in zip((first, second), found, strict=True):
        if module is None:
            module = copy.deepcopy(known)
            state = _read(side).state if isinstance(side, str | Path) else cast("Mapping[str, Tensor]", side)
            weights.load_into(module, state, _name(side, "the state dict"))
        out.append(module)
    return out[0], out[1]


def _module(side: Side) -> nn.Module | None:
    """A module, or the network that a checkpoint names; None for a state dict alone."""
    if isinstance(side, nn.Module):
        return side
    if isinstance(side, Mapping):
        return None
    checkpoint = _read(side)
    about = checkpoint.about
    if None in (about.model, about.num_classes, about.input_shape):
        return None
    model = models.build(models.architecture(ModelSettings(), about, checkpoint.path))
    weights.load_into(model, checkpoint.state, str(side))
    return model


def _batches(data: Data, place: torch.device) -> Iterator[Batch]:
    """Raises InputError where there is nothing."""
    if not isinstance(data, Tensor):
        yield from Loaded(data, place)
        return
    if len(data) == 0:
        raise InputError("there are no inputs")
    for ids in torch.split(torch.arange(len(data), device=place), AT_ONCE):
        yield Batch(data[ids.to(data.device)].to(place), torch.zeros_like(ids), ids)


@contextmanager
def _ready(one: nn.Module, other: nn.Module) -> Iterator[torch.device]:
    """Both in eval mode. What a network cannot take is an InputError."""
    try:
        with evaluating(one) as place, evaluating(other):
            yield place
    except RuntimeError as error:
        raise InputError(f"a network cannot take the inputs: {str(error).splitlines()[0][:200]}") from error


@contextmanager
def _taking_gradients(*modules: nn.Module) -> Iterator[None]:
    """Frozen parameters count too."""
    frozen = [p for module in modules for p in module.parameters() if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(False)
