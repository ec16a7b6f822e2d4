"""Curve checkpoints of dnn-mode-connectivity: `net.<module>.<weight|bias>_<k>` and one set of buffers.

Their modules have other names than those of the network (VGG `fc1` for `classifier.1`), so that tensors are matched
by order, and every shape is compared.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from modeconn_cli.engine.errors import InputError

PREFIX = "net."
MARK = "coeff_layer."
_POINT = re.compile(r"(.+)_(\d+)")
_ALWAYS = (
    "weight",
    "bias",
)  # of the names that end in a number; others are of points where all points have them


def is_curve(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is a curve's."""
    return f"{MARK}range" in state


def kind_of(state: Mapping[str, Tensor]) -> str:
    """A Bezier curve has binomial coefficients, a polygonal chain has not."""
    return "bezier" if f"{MARK}binom" in state else "polychain"


def split(state: Mapping[str, Tensor]) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """The control points [K] and the buffers, under the curve's own names. Raises InputError for odd keys."""
    count = len(state[f"{MARK}range"])
    points: list[dict[str, Tensor]] = [{} for _ in range(count)]
    buffers: dict[str, Tensor] = {}
    plainly = {
        name.removeprefix(PREFIX): tensor for name, tensor in state.items() if not name.startswith(MARK)
    }
    for name, tensor in plainly.items():
        found = _POINT.fullmatch(name)
        if found is None or not (
            found[1].rpartition(".")[2] in _ALWAYS or all(f"{found[1]}_{k}" in plainly for k in range(count))
        ):
            buffers[name] = tensor
        elif int(found[2]) < count:
            points[int(found[2])][found[1]] = tensor
        else:
            raise InputError(f"curve tensor '{name}' has no control point: there are {count}")
    if any(list(point) != list(points[0]) for point in points):
        raise InputError("the control points of the curve differ in their tensors")
    return points, buffers


def renamed(
    points: list[dict[str, Tensor]],
    buffers: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    parameters: list[str],
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """The curve's tensors under the names of the network.

    `own` is the network's state dict, `parameters` its parameter names in order. Raises InputError for every
    tensor that finds no place.
    """
    theirs = list(points[0])
    if len(theirs) != len(parameters):
        raise InputError(
            f"the curve has {len(theirs)} parameter tensors, the network {len(parameters)}",
            "pass another --model",
        )
    modules: dict[str, str] = {}
    for mine, name in zip(parameters, theirs, strict=True):
        if own[mine].shape != points[0][name].shape or mine.rpartition(".")[2] != name.rpartition(".")[2]:
            raise InputError(
                f"curve tensor {name} {tuple(points[0][name].shape)} stands in the place of the network's {mine} "
                f"{tuple(own[mine].shape)}",
                "pass another --model",
            )
        modules[name.rpartition(".")[0]] = mine.rpartition(".")[0]
    out: dict[str, Tensor] = {}
    for name, tensor in buffers.items():
        module, _, leaf = name.rpartition(".")
        mine = _joined(modules.get(module, module), leaf)
        if mine not in own or own[mine].shape != tensor.shape:
            raise InputError(f"curve buffer '{name}' has no place in the network", "pass another --model")
        out[mine] = tensor
    return [dict(zip(parameters, point.values(), strict=True)) for point in points], out


# What its curves call modules of its networks: VGG's linear layers, and the convolution beside a block.
_CURVE_NAMES = (
    (re.compile(r"(.*\.)?classifier\.1"), "fc1"),
    (re.compile(r"(.*\.)?classifier\.4"), "fc2"),
    (re.compile(r"(.*\.)?classifier\.6"), "fc3"),
    (re.compile(r"(.*\.downsample)\.0"), r"\1"),
)


def joined(
    kind: str, points: Sequence[Mapping[str, Tensor]], buffers: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state dict of a curve through control points [K], with one set of buffers, under its names there.

    Raises InputError where two tensors would have one name.
    """
    count = len(points)
    names = [f"{_curve_name(name)}_{k}" for name in points[0] for k in range(count)] + list(
        map(_curve_name, buffers)
    )
    most, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise InputError(f"in the layout of dnn-mode-connectivity {times} tensors would be '{PREFIX}{most}'")
    out = {f"{MARK}range": torch.arange(0, float(count))}
    if kind == "bezier":
        binomials = torch.tensor([float(math.comb(count - 1, k)) for k in range(count)])
        out = {f"{MARK}binom": binomials, **out, f"{MARK}rev_range": torch.arange(count - 1, -1, -1.0)}
    rows = [(name, {f"_{k}": point[name] for k, point in enumerate(points)}) for name in points[0]]
    rows += [(name, {"": tensor}) for name, tensor in buffers.items()]
    place = {module: k for k, module in enumerate(dict.fromkeys(name.rpartition(".")[0] for name, _ in rows))}
    for name, ends in sorted(
        rows, key=lambda row: place[row[0].rpartition(".")[0]]
    ):  # stable: module by module
        out |= {f"{PREFIX}{_curve_name(name)}{end}": tensor for end, tensor in ends.items()}
    return out


def _curve_name(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    for pattern, theirs in _CURVE_NAMES:
        if found := pattern.fullmatch(module):
            module = found.expand(theirs)
    return _joined(module, leaf)


def _joined(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else leaf
