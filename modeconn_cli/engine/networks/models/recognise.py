"""Which registered network a state dict belongs to, by the names and shapes of its tensors.

A network of dnn-mode-connectivity says nothing of itself in its files; its family also implies the data set
(CIFAR-10 or CIFAR-100 by the number of classes) and the transform it was trained with.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from modeconn_cli.engine.datasets.remembered import Remembered
from modeconn_cli.engine.errors import McxError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint, garipov
from modeconn_cli.engine.networks.models import Architecture, asks_for_classes, build, factory_of
from modeconn_cli.engine.registry import MODELS, Entry, find_model
from modeconn_cli.engine.settings.shared import ModelSettings

TRIED = 10  # classes of a network that is built to see which of its tensors depend on them

# Families whose files come from dnn-mode-connectivity, and the transform they are trained with there.
TRANSFORMS = {"vgg": "vgg", "garipov-vgg": "vgg", "convfc": "vgg", "preresnet": "resnet", "wrn": "resnet"}


def recognised(checkpoint: Checkpoint, settings: ModelSettings, runtime: Runtime) -> Checkpoint:
    """The checkpoint with what its keys say of its network, where neither it nor the settings say.

    With --model, classes and width of that network are read off the shapes; nothing is guessed of networks that are not
    ours. Of a foreign curve, whose modules have other names, shapes and their order decide. Raises SettingsError naming
    --model where several networks fit, or none.
    """
    ours = settings.model is None or ":" not in settings.model
    if checkpoint.about.model is not None or checkpoint.is_curve or not ours:
        return checkpoint
    if garipov.is_curve(checkpoint.state):
        points, _ = garipov.split(checkpoint.state)
        fits = matches_in_order(points[0], settings.model)
    else:
        fits = matches(checkpoint.state, settings.model)
    if settings.model is not None and not fits:
        return checkpoint  # the mismatch is named, tensor by tensor, where the weights are loaded
    return _decided(checkpoint, fits, runtime)


def _decided(checkpoint: Checkpoint, fits: list[Architecture], runtime: Runtime) -> Checkpoint:
    where = f"'{checkpoint.path}' does not say which network it holds"
    if not fits:
        raise SettingsError(
            f"{where}, and no registered one fits",
            f"pass --model (pkg.mod:factory for your own, or {', '.join(MODELS)})",
        )
    if len(fits) > 1:
        names = " and ".join(arch.model for arch in fits)
        raise SettingsError(
            f"{where}, and its keys fit {names}", "pass --model with the one it was trained as"
        )
    about = fits[0].about(checkpoint.about, data=checkpoint.about.data or implied_data(fits[0]))
    runtime.note(f"'{checkpoint.path}' holds {fits[0].model} by its keys ({fits[0].num_classes} classes)")
    return replace(checkpoint, about=about)


def matches(state: Mapping[str, Tensor], only: str | None = None) -> list[Architecture]:
    """The registered networks with exactly these tensors, whatever wrapped them, or the one named."""
    state = dict(zip(weights.unwrapped(state), state.values(), strict=True))
    return _first_of_each(arch for arch in _candidates(state, only) if fits(arch, state))


def matches_in_order(point: Mapping[str, Tensor], only: str | None = None) -> list[Architecture]:
    """The registered networks with tensors of these kinds and shapes in this order, or the one named."""
    return _first_of_each(arch for arch in _candidates(point, only) if _fits_in_order(arch, point))


def _first_of_each(found: Iterable[Architecture]) -> list[Architecture]:
    """One per name: a width that is spelled out and equal to the default is the same network."""
    out: dict[str, Architecture] = {}
    for arch in found:
        out.setdefault(arch.model, arch)
    return list(out.values())


def with_classes_in_order(arch: Architecture, point: Mapping[str, Tensor]) -> Architecture:
    """The network with as many classes as a foreign curve's control point, whose tensors have the same order alone."""
    model = _on_meta(replace(arch, num_classes=arch.num_classes or TRIED))
    own = [] if model is None else [name for name, _ in model.named_parameters()]
    return with_classes_of(arch, dict(zip(own, point.values(), strict=False)))


def with_classes_of(arch: Architecture, state: Mapping[str, Tensor]) -> Architecture:
    """The network with as many classes as its weights `state` have; None where its factory does not ask for them.

    Built with other ones, all tensors that differ do so in the same proportion. Where that is not so, something else
    does not fit, which is named where the weights are loaded.
    """
    if not asks_for_classes(arch):
        return replace(arch, num_classes=None)
    tried = arch.num_classes or TRIED
    model = _on_meta(replace(arch, num_classes=tried))
    own = {} if model is None else model.state_dict()
    state = weights.named_as(state, own)
    ratios = {
        there * tried / here
        for name, tensor in own.items()
        if name in state and state[name].ndim == tensor.ndim
        for here, there in zip(tensor.shape, state[name].shape, strict=True)
        if here != there
    }
    if model is None:
        return arch
    classes = ratios.pop() if len(ratios) == 1 else tried
    return replace(arch, num_classes=int(classes) if classes == int(classes) else tried)


def fits(arch: Architecture, state: Mapping[str, Tensor]) -> bool:
    """Whether a network has exactly these tensors, but for wrappers and counters of steps."""
    model = _on_meta(arch)
    if model is None:
        return False
    own = weights.tensors_of(model)
    state = weights.named_as(state, own)
    return own.keys() == state.keys() and all(own[name].shape == state[name].shape for name in own)


def implied_data(arch: Architecture) -> Remembered | None:
    """Data set and transform of a network from dnn-mode-connectivity."""
    family = next((name for name in TRANSFORMS if arch.model.startswith(name)), None)
    if family is None or arch.num_classes not in (10, 100) or arch.input_shape[0] != 3:
        return None
    return Remembered(dataset=f"cifar{arch.num_classes}", transform=TRANSFORMS[family], whole=False)


def _candidates(state: Mapping[str, Tensor], only: str | None) -> Iterator[Architecture]:
    """What the network could be: by its number of blocks, the first convolution and the rows of its matrices.

    The order of the tensors is not relied on: safetensors files sort them.
    """
    kernels = [tensor for tensor in state.values() if tensor.ndim == 4]
    first = min(kernels, key=lambda kernel: kernel.shape[1], default=None)
    rows = sorted({tensor.shape[0] for tensor in state.values() if tensor.ndim == 2})
    for name in [only] if only is not None else {**MODELS, **dict.fromkeys(_family_members(state))}:
        name, entry = find_model(name)
        shape = entry.input_shape if first is None else (first.shape[1], *entry.input_shape[1:])
        for args in _arguments(entry, first):
            probe = Architecture(name, min(rows, default=1), shape, args)
            if _has_as_many(probe, _count(state)):
                yield from (replace(probe, num_classes=classes) for classes in rows)


def _arguments(entry: Entry, first: Tensor | None) -> list[dict[str, int]]:
    """The arguments to try: none, and the width of the first convolution where the network's own is another."""
    width = inspect.signature(factory_of(entry)).parameters.get("width")
    if first is None or width is None or "width" in entry.args or first.shape[0] == width.default:
        return [{}]
    return [{}, {"width": first.shape[0]}]


def _has_as_many(arch: Architecture, count: int) -> bool:
    """Whether a network has that many tensors, or parameters, whatever the number of its classes."""
    model = _on_meta(arch)
    return model is not None and count in (_count(model.state_dict()), len(list(model.parameters())))


def _count(names: Iterable[str]) -> int:
    """How many tensors there are beside counters of steps."""
    return sum(not weights.is_counter(name) for name in names)


def _family_members(state: Mapping[str, Tensor]) -> list[str]:
    """The numbered network that a count of blocks in `layer1` suggests."""
    blocks = {found[1] for name in state if (found := re.match(r"layer1\.(\d+)\.", name))}
    count, width = len(blocks), state.get("layer1.0.conv1.weight")
    if not count or width is None:
        return []
    deep = "layer1.0.conv3.weight" in state
    return [
        f"preresnet{(9 if deep else 6) * count + 2}",
        f"wrn{6 * count + 4}-{max(width.shape[0] // 16, 1)}",
    ]


def _on_meta(arch: Architecture) -> nn.Module | None:
    """The network without memory, None where there is none: no such depth or width, images too small.

    A constructor that computes with its tensors gets real ones.
    """
    for place in ("meta", "cpu"):
        try:
            with torch.device(place):
                return build(arch)
        except SettingsError:
            return None
        except McxError:
            continue
    return None


def _fits_in_order(arch: Architecture, point: Mapping[str, Tensor]) -> bool:
    model = _on_meta(arch)
    if model is None:
        return False
    mine = [(name.rpartition(".")[2], tuple(p.shape)) for name, p in model.named_parameters()]
    return mine == [(name.rpartition(".")[2], tuple(p.shape)) for name, p in point.items()]
