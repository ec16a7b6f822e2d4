"""Distances between networks as Python callers hold them: modules, state dicts or paths of checkpoints."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeconn_cli.engine.commands.l2 import network, weight_space
from modeconn_cli.engine.commands.l2.functions import BLOCKS, Weighted
from modeconn_cli.engine.commands.l2.network import Network
from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import distances, subject, sums, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.networks.distances import Distance, FunctionalDistance
from modeconn_cli.engine.samples.loaders import Loaded, check, check_labels, evaluating
from modeconn_cli.engine.samples.per_sample.fisher import DiagonalFisher, Kind
from modeconn_cli.engine.settings.shared import ModelSettings

AT_ONCE = 256  # inputs of a tensor that go through a network together

PythonNetwork = nn.Module | Mapping[str, Tensor] | str | Path
Data = Tensor | Iterable[Any]  # inputs [N, …], or batches of (inputs, labels) or (inputs, labels, ids)


def distance(first: PythonNetwork, second: PythonNetwork) -> Distance:
    """Measure the distance over the parameters of both.

    Raises InputError where they are not alike, and for NaN or infinity.
    """
    pair, given = ("the first", "the second"), (first, second)
    # A module says what the parameters are: a state dict does not tell them from buffers.
    module = next((each for each in given if isinstance(each, nn.Module)), None)
    named = [] if module is None else [name for name, _ in module.named_parameters()]
    networks = {label: _compared(each, label, named) for label, each in zip(pair, given, strict=True)}
    one, other = networks.values()
    networks[pair[1]] = replace(other, weights=weights.named_as(other.weights, one.weights))
    found, failed = weight_space.measure(networks, [pair])
    if failed:
        raise failed[pair]
    return distances.distance(found[pair])


def _compared(given: PythonNetwork, label: str, named: Sequence[str]) -> Network:
    """The parameters of a network, those `named` where it has them all; of a path as pages of its file."""
    opened = _opened(given, label)
    if isinstance(opened, nn.Module):
        own = _parameters(opened)
        return Network(Checkpoint(Path(label), "module", own), own)
    if named and set(named) <= set(state := weights.named_as(opened.state, dict.fromkeys(named))):
        return Network(opened, {name: state[name] for name in named})
    bare = isinstance(given, Mapping)
    return Network(opened, weights.parameters_in(opened.state) if bare else opened.parameters())


def _opened(given: PythonNetwork, label: str) -> nn.Module | Checkpoint:
    """A module as it is; a state dict as a checkpoint that is called by its label."""
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, Mapping):
        return Checkpoint(Path(label), "bare", dict(given))
    return network.mapped(Path(given))


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def weighted(
    first: PythonNetwork, second: PythonNetwork, data: Data, kind: Kind, seed: int
) -> tuple[float, float]:
    """√Σ F (a − b)² with F the mean of both networks' diagonal Fisher information on the data, and its standard error.

    The samples are taken in blocks: pieces of the first batches, then batches.
    """
    if kind == "empirical" and isinstance(data, Tensor):
        raise InputError("inputs alone have no labels", "pass batches of (inputs, labels), or kind='true'")
    one, other = _modules(first, second)
    a = _parameters(one)
    b = weights.named_as(_parameters(other), a)
    weights.check_alike(a, b, "the first", "the second")
    information: list[DiagonalFisher] = []
    found: tuple[list[dict[str, float]], list[dict[str, float]]] = [], []
    sizes: list[int] = []
    with _ready(one, other) as place:
        for batch in _batches(data, place):  # once, as a loader may shuffle
            for k, model in enumerate((one, other)):
                if len(information) == k:
                    classes = check(model, batch)
                    information.append(DiagonalFisher(model, tuple(batch.images.shape[1:]), kind, seed))
            check_labels(batch.labels, classes)
            pieces = BLOCKS if len(sizes) < BLOCKS else 1
            for rows in torch.arange(len(batch.ids), device=place).tensor_split(min(pieces, len(batch.ids))):
                sizes.append(len(rows))
                for each, blocks in zip(information, found, strict=True):
                    each.clear()
                    each.add(batch.images[rows], batch.labels[rows], batch.ids[rows])
                    blocks.append(sums.weighted(a, b, weights.named_as(each.information(), a)))
    whole = Weighted.of(*found, sizes)
    return math.sqrt(math.fsum(whole.by_tensor.values())), whole.stderr


def in_function(first: PythonNetwork, second: PythonNetwork, data: Data) -> FunctionalDistance:
    """What two networks answer on the same inputs."""
    one, other = _modules(first, second)
    with _ready(one, other) as place, torch.no_grad():
        batches = _batches(data, place)  # once, as a loader may shuffle
        return distances.functional((one(batch.images), other(batch.images)) for batch in batches)


def _modules(first: PythonNetwork, second: PythonNetwork) -> list[nn.Module]:
    """Both as modules; a state dict is loaded into a copy of the other's module."""
    opened = [_opened(given, "the state dict") for given in (first, second)]
    built = [each if isinstance(each, nn.Module) else _described(each) for each in opened]
    known = next((model for model in built if model is not None), None)
    if known is None:
        raise InputError("two state dicts do not say what they compute", "pass a module for one of them")
    out = []
    for each, model in zip(opened, built, strict=True):
        out.append(copy.deepcopy(known) if model is None else model)
        if model is None and isinstance(each, Checkpoint):
            weights.load_into(out[-1], each.whole, str(each.path))
    return out


def _described(checkpoint: Checkpoint) -> nn.Module | None:
    """The network that a checkpoint names; None where it does not say."""
    about = checkpoint.about
    if None in (about.model, about.num_classes, about.input_shape):
        return None
    return subject.open_networks([checkpoint], ModelSettings(), Runtime(device=None), "no data").model


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
    """Both in eval mode, and gradients reach frozen parameters too. What a network cannot take is an InputError."""
    frozen = [p for model in (one, other) for p in model.parameters() if not p.requires_grad]
    try:
        with evaluating(one) as place, evaluating(other):
            for p in frozen:
                p.requires_grad_(p.is_floating_point())
            yield place
    except RuntimeError as error:
        raise InputError(f"a network cannot take the inputs: {str(error).splitlines()[0][:200]}") from error
    finally:
        for p in frozen:
            p.requires_grad_(False)
