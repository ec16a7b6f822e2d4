"""Lines on which a part of a network's layers move and the rest stays where it is.

A layer is a module that holds parameters of its own, with its buffers; one that holds buffers alone goes with the layer
before it. A tensor that several modules share belongs to the first of them. Source: Adilova et al. 2024
(arXiv:2307.06966).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from modeconn_cli.engine.errors import SettingsError, did_you_mean
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.paths.carrier import statistics_of
from modeconn_cli.engine.paths.opened import OpenedPath

End = Literal[0, 1]


@dataclass(frozen=True)
class Part:
    """A part of a network by its name, and the tensors that are moved: its own, and all up to its last."""

    name: str
    alone: frozenset[str]
    up_to: frozenset[str]


def layers(model: nn.Module) -> dict[str, list[str]]:
    """The tensors of each layer, in the order of the state dict."""
    parameters = {name for name, _ in model.named_parameters()}
    own = parameters | {name for name, _ in model.named_buffers()}
    found, before = dict[str, list[str]](), list[str]()
    for name, tensors in weights.modules(each for each in weights.tensors_of(model) if each in own).items():
        if parameters.isdisjoint(tensors):
            (next(reversed(found.values())) if found else before).extend(tensors)
        else:
            found[name], before = before + tensors, []
    return found


def parts(model: nn.Module, words: Sequence[str] = ()) -> list[Part]:
    """The parts that `words` name, all layers where there are none.

    A word is the path of a module, in which everything moves together, what it shares with others too, or a pattern
    with * or ?, which stands for every layer that it fits. Raises SettingsError for a word that fits none.
    """
    every = layers(model)
    order = [tensor for tensors in every.values() for tensor in tensors]
    chosen = {} if words else {name: frozenset(tensors) for name, tensors in every.items()}
    for word in words:
        if {*"*?["} & {*word}:
            found = {name: frozenset(every[name]) for name in every if fnmatch.fnmatchcase(name, word)}
        else:
            found = {word: _below(model, every, word)}
        if not any(found.values()):
            raise SettingsError(f"no layer '{word}'", did_you_mean(word, _names(every)))
        chosen |= found
    return [
        Part(name, own, frozenset(order[: 1 + max(map(order.index, own))])) for name, own in chosen.items()
    ]


def _below(model: nn.Module, every: Mapping[str, Sequence[str]], word: str) -> frozenset[str]:
    """The tensors of a module and of all inside it, by any of their names, and what else goes with a layer."""
    named = weights.tensors_of(model)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    inside = {first[id(tensor)] for name, tensor in named.items() if f"{name}.".startswith(f"{word}.")}
    return frozenset(inside.union(every.get(word, ())))


def _names(every: Collection[str]) -> set[str]:
    """The layers and the modules around them."""
    return {".".join(name.split(".")[: k + 1]) for name in every for k in range(len(name.split(".")))}


def differing(opened: OpenedPath) -> frozenset[str]:
    """The tensors that are not the same at both ends of a line; counters do not matter."""
    first, last = opened.path.control_points()
    ends = [{**first, **opened.buffers[0]}, {**last, **opened.buffers[1]}]
    return frozenset(
        name
        for name, tensor in ends[0].items()
        if not weights.is_counter(name) and not torch.equal(tensor, ends[1][name].to(tensor))
    )


def partial(opened: OpenedPath, moved: Collection[str], rest: End) -> OpenedPath:
    """The line on which only the tensors `moved` go from endpoint 0 to endpoint 1; all others are endpoint `rest`'s.

    One of its ends is that network, the other a hybrid, which no file holds. Where the policy keeps endpoint 0's
    statistics, so does the hybrid; where layers are repaired its own are computed first.
    """
    path, layout = opened.path, opened.path.layout
    points = path.points[rest].repeat(2, 1)
    hybrid = layout.views(points[1 - rest])
    for name, tensor in layout.views(path.points[1 - rest]).items():
        if name in moved:
            hybrid[name].copy_(tensor)
    ends, its = list(opened.buffers), dict(opened.buffers[rest])
    its |= {name: tensor for name, tensor in opened.buffers[1 - rest].items() if name in moved}
    if opened.policy.bn == "keep":
        its |= {name: opened.buffers[0][name] for name in statistics_of(opened.subject.model)}
    ends[rest], ends[1 - rest] = opened.buffers[rest], its
    line = replace(opened, path=replace(path, points=points), buffers=tuple(ends))
    whole = differing(opened) <= {*moved}
    if whole or opened.policy.bn != "repair" or not opened.has_batch_norm:
        return line
    network = replace(line, policy=replace(line.policy, bn="recompute")).network()
    network.move_to(float(1 - rest))
    ends[1 - rest] = {name: buffer.detach().clone() for name, buffer in line.subject.model.named_buffers()}
    return replace(line, buffers=tuple(ends))
