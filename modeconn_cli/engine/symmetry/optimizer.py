"""Permuting the state of an optimizer like the parameters that it belongs to.

An optimizer numbers its parameters group by group, in the order of its groups. Files seldom say which parameters a
group holds; shapes, counts and the order of the network's parameters do, for groups as trainers make them (biases and
norms without decay, another rate for the head), also where it has been given some of the network's parameters alone.
Where they leave a doubt that makes a difference there is no permuted state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.symmetry.groups import Group
from modeconn_cli.engine.symmetry.permutation import Order, permute

Shape = tuple[int, ...]
ANY: Shape = (-1,)  # of a parameter that the optimizer has not been given

MOST = 100_000  # states that are followed at once: two groups of any length, three of some hundred


class Doubt(Exception):
    """Why the state cannot be told to belong to the parameters."""


def moved(
    optimizer: Mapping[str, Any] | None,
    model: nn.Module,
    orders: Mapping[Group, Order],
    runtime: Runtime,
) -> dict[str, Any] | None:
    """The optimizer's state permuted like the parameters; None, which is said, where it may be of other parameters."""
    if optimizer is None:
        return None
    try:
        found = permuted(optimizer, model, orders)
        if len(found["param_groups"]) > 1 and not found["param_groups"][0].get("param_names"):
            runtime.note(
                "the optimizer's state is moved as of groups that hold parameters in the network's order"
            )
        return found
    except (Doubt, InputError) as doubt:
        reason = str(doubt)
    except (KeyError, TypeError, ValueError, AttributeError):
        reason = "it is not that of an optimizer of torch"
    runtime.note(f"the optimizer's state is left out: {reason}")
    return None


def permuted(optimizer: Mapping[str, Any], model: nn.Module, orders: Mapping[Group, Order]) -> dict[str, Any]:
    """The state dict of an optimizer with its tensors (momentum, moments) permuted like the parameters of the model.

    Raises Doubt where they may belong to other parameters, which are permuted otherwise.
    """
    groups = [list(group["params"]) for group in optimizer["param_groups"]]
    state: dict[Any, dict[str, Any]] = {k: dict(optimizer["state"].get(k, {})) for of in groups for k in of}
    shapes = {index: _shape(entry) for index, entry in state.items()}
    parameters = {name: tuple(p.shape) for name, p in _taking_part(model, len(state)).items()}
    kept = any(shape is not None for shape in shapes.values())
    if not kept and len(parameters) > len(state):
        raise Doubt(
            f"it has {len(state)} parameters, the network {len(parameters)}, and it keeps nothing of them"
        )
    if kept:
        left = [object() for _ in range(len(parameters) - len(state))]
        if left:  # a group of any shapes that the optimizer knows nothing of
            groups, shapes = [*groups, left], shapes | dict.fromkeys(left, ANY)
        for index, names in _candidates(optimizer["param_groups"], groups, shapes, parameters).items():
            if index in state:
                state[index] = _moved(state[index], names, orders)
    return {**optimizer, "state": {index: entry for index, entry in state.items() if entry}}


def _shape(entry: Mapping[str, Any]) -> Shape | None:
    """The shape of a parameter by what an optimizer keeps of it; None where it keeps nothing of that shape."""
    found = {tuple(value.shape) for value in entry.values() if isinstance(value, Tensor) and value.ndim}
    if len(found) > 1:
        raise Doubt("it keeps tensors of other shapes than the parameters'")
    return next(iter(found), None)


def _taking_part(model: nn.Module, count: int) -> dict[str, nn.Parameter]:
    """All parameters, or those that are trained, whichever are so many; all where it has fewer."""
    every = dict(model.named_parameters())
    trained = {name: p for name, p in every.items() if p.requires_grad}
    for names in (every, trained):
        if len(names) == count:
            return names
    if count < len(every):
        return every
    raise Doubt(f"it has {count} parameters, the network {len(every)}")


def _candidates(
    described: Sequence[Mapping[str, Any]],
    groups: Sequence[Sequence[Any]],
    shapes: Mapping[Any, Shape | None],
    parameters: Mapping[str, Shape],
) -> dict[Any, Sequence[str]]:
    """The parameters that each index may be; more than one where groups share a shape."""
    if all(len(group.get("param_names") or ()) == len(group["params"]) for group in described):
        named = [
            (k, n) for group in described for k, n in zip(group["params"], group["param_names"], strict=True)
        ]
        return {k: [_checked(name, shapes[k], parameters)] for k, name in named}
    if len(groups) == 1:
        ordered = zip(groups[0], parameters, strict=True)
        return {k: [_checked(name, shapes[k], parameters)] for k, name in ordered}
    if None in shapes.values():
        raise Doubt("it has several groups, and keeps nothing of some parameters")
    return _interleaved(groups, shapes, parameters)


def _interleaved(
    groups: Sequence[Sequence[Any]], shapes: Mapping[Any, Shape | None], parameters: Mapping[str, Shape]
) -> dict[Any, Sequence[str]]:
    """What each index may be, where every group holds its parameters in the order of the network.

    All ways to deal the parameters out to the groups are followed at once: a state is how many each group has so far.
    """
    names, end = list(parameters), tuple(len(group) for group in groups)
    states = [{(0,) * len(groups)}]
    for name in names:
        states.append(
            {after for before in states[-1] for after, _ in _dealt(before, groups, shapes, parameters[name])}
        )
        if len(states[-1]) > MOST:
            raise Doubt("its groups can be told apart in too many ways")
    if end not in states[-1]:
        raise Doubt("the shapes of its groups are not those of the network's parameters in any order")
    found: dict[Any, list[str]] = {}
    alive = {end}
    for name, earlier in zip(reversed(names), reversed(states[:-1]), strict=True):
        steps = [
            (before, step) for before in earlier for step in _dealt(before, groups, shapes, parameters[name])
        ]
        whole = [(before, index) for before, (after, index) in steps if after in alive]
        alive = {before for before, _ in whole}
        for index in {index for _, index in whole}:
            found.setdefault(index, []).append(name)
    return {index: names[::-1] for index, names in found.items()}


def _dealt(
    before: tuple[int, ...], groups: Sequence[Sequence[Any]], shapes: Mapping[Any, Shape | None], shape: Shape
) -> list[tuple[tuple[int, ...], Any]]:
    """The states after a parameter of this shape, each with the index that it then has."""
    out = []
    for g, (group, taken) in enumerate(zip(groups, before, strict=True)):
        if taken < len(group) and shapes[group[taken]] in (shape, ANY):
            out.append(((*before[:g], taken + 1, *before[g + 1 :]), group[taken]))
    return out


def _checked(name: str, shape: Shape | None, parameters: Mapping[str, Shape]) -> str:
    if name not in parameters or (shape is not None and parameters[name] != shape):
        raise Doubt(f"'{name}' is {shape} in it, {parameters.get(name, 'not there')} in the network")
    return name


def _moved(entry: Mapping[str, Any], names: Sequence[str], orders: Mapping[Group, Order]) -> dict[str, Any]:
    """What is kept of one parameter, permuted as all parameters are that it may be."""
    out = dict(entry)
    for key, value in entry.items():
        if isinstance(value, Tensor) and value.ndim:
            first, *others = (permute({name: value}, orders)[name] for name in names)
            if not all(torch.equal(first, other) for other in others):
                raise Doubt(f"its groups do not tell {names[0]} from {names[1]}")
            out[key] = first
    return out
