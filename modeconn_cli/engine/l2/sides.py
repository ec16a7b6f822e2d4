"""Networks as Python callers hold them: modules, state dicts or paths."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from modeconn_cli.engine import checkpoints, distances, models, sums, weights
from modeconn_cli.engine.checkpoints import Checkpoint
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.distances import Distance
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.l2.functions import FunctionalDistance, functional
from modeconn_cli.engine.loaders import Loaded, evaluating
from modeconn_cli.engine.per_sample import check_independent
from modeconn_cli.engine.per_sample.fisher import DiagonalFisher, Kind
from modeconn_cli.engine.settings.shared import ModelSettings

Side = nn.Module | Mapping[str, Tensor] | str | Path
Data = Tensor | Iterable[Any]  # inputs [N, …], or batches of (inputs, labels) or (inputs, labels, ids)


def distance(first: Side, second: Side) -> Distance:
    """Over the parameters of both. Raises InputError where they are not alike, and for NaN or infinity."""
    a, b = parameters(first), parameters(second)
    weights.check_alike(a, b, _name(first, "the first"), _name(second, "the second"))
    for side, found in ((first, a), (second, b)):
        checkpoints.check_finite(found, Path(_name(side, "network")))
    return distances.l2(a, b)


def weighted(first: Side, second: Side, data: Data, kind: Kind, seed: int) -> float:
    """√Σ F (a − b)² with F the mean of both networks' diagonal Fisher information on the data."""
    one, other = _modules(first, second)
    a, b = parameters(one), parameters(other)
    weights.check_alike(a, b, "the first", "the second")
    total = 0.0
    for model in (one, other):
        information = _information(model, data, kind, seed)
        found = sums.weighted(a, b, {name: information[name] for name in a})
        total += sum(found.values()) / 2
    return float(np.sqrt(total))


def in_function(first: Side, second: Side, data: Data) -> FunctionalDistance:
    """What two networks answer on the same inputs."""
    one, other = _modules(first, second)
    if not isinstance(data, Tensor) and iter(data) is data:
        data = list(data)  # both networks go through it
    return functional(_answers(one, data), _answers(other, data))


def parameters(side: Side) -> dict[str, Tensor]:
    """The parameters of a network, by name; of a path as pages of its file."""
    if isinstance(side, nn.Module):
        return {name: p.detach() for name, p in side.named_parameters()}
    if isinstance(side, Mapping):
        return weights.parameters_in(side)
    return _read(side).parameters()


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
    if not {"model", "num_classes", "input_shape"} <= set(checkpoint.about):
        return None
    model = models.build(models.architecture(ModelSettings(), checkpoint))
    weights.load_into(model, checkpoint.state, str(side))
    return model


def _batches(data: Data, place: torch.device) -> Iterator[Batch]:
    if not isinstance(data, Tensor):
        yield from Loaded(data, place)
        return
    ids = torch.arange(len(data), device=place)
    yield Batch(data.to(place), torch.zeros_like(ids), ids)


def _information(model: nn.Module, data: Data, kind: Kind, seed: int) -> dict[str, Tensor]:
    if kind == "empirical" and isinstance(data, Tensor):
        raise InputError("inputs alone have no labels", "pass batches of (inputs, labels), or kind='true'")
    frozen = [p for p in model.parameters() if not p.requires_grad]
    found: DiagonalFisher | None = None
    with evaluating(model) as place:
        for p in frozen:
            p.requires_grad_(True)
        try:
            for batch in _batches(data, place):
                if found is None:
                    check_independent(model, batch.images)
                    found = DiagonalFisher(model, tuple(batch.images.shape[1:]), kind, seed)
                found.add(batch.images, batch.labels, batch.ids)
        finally:
            for p in frozen:
                p.requires_grad_(False)
    if found is None or found.samples == 0:
        raise InputError("there are no inputs")
    return found.information()


def _answers(model: nn.Module, data: Data) -> np.ndarray:
    with evaluating(model) as place, torch.no_grad():
        found = [model(batch.images).float().cpu().numpy() for batch in _batches(data, place)]
    if not found or len(found[0]) == 0:
        raise InputError("there are no inputs")
    return np.concatenate(found)
