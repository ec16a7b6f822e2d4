"""Squared norms of every sample's weight gradient of a convolution in two dimensions.

A convolution multiplies its weight with the patches of the input. Three exact ways, with C, D channels in and out,
K kernel positions, P input and T output positions per sample and group:
the gradient itself (T·C·K·D); the patches' inner products over positions (T²·(C·K + D)); and, without making the
patches, the inputs' inner products, whose shifted copies the kernel's offsets add up (P²·C + T²·(K + D)).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vecdot

CHUNK = 1 << 20  # elements of inner products made at a time: they stay in the cache

# Costs in multiplications of a large matrix product, measured on two cores: copying a patch's element, adding a
# shifted one, writing and reading an element of one sample's gradient, and calling the kernel for one sample.
_PATCH, _SHIFT, _CELL, _CALL = 30.0, 4.0, 40.0, 6e6

Pair = tuple[int, int]  # down and across


@dataclass(frozen=True)
class Geometry:
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


def geometry(args: Sequence[Any]) -> Geometry:
    """Read the geometry off the arguments of `aten.conv2d`.

    Those at the end may be missing, and lists may have one number for both axes.
    """

    def pair(place: int, default: int) -> Pair:
        numbers = list(args[place]) if len(args) > place else [default]
        return numbers[0], numbers[-1]

    return Geometry(pair(3, 1), pair(4, 0), pair(5, 1), args[6] if len(args) > 6 else 1)


def weight_norms(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    """‖∇_W ℓ_i‖², [N]; x [N, C, …], g [N, D, …]."""
    kernel, per_group = math.prod(weight.shape[2:]), weight.shape[1]
    outputs = weight.shape[0] // how.groups
    positions, inputs = math.prod(g.shape[2:]), math.prod(x.shape[2:])
    costs = {
        "gradient": per_group * kernel * outputs * (positions + _CELL) + _CALL / how.groups,
        "patches": positions**2 * (per_group * kernel + outputs) + _PATCH * positions * per_group * kernel,
        "shifts": inputs**2 * per_group + positions**2 * (outputs + _SHIFT * kernel),
    }
    if how.groups != 1:
        del costs["patches"]
    cheapest = min(costs, key=lambda name: costs[name])
    if cheapest == "gradient":
        return torch.cat([some.flatten(1).square().sum(1) for some in _few(x, g, weight, how)])
    largest = positions * per_group * kernel if cheapest == "patches" else inputs**2
    size = max(1, CHUNK // (largest * how.groups))
    norms = _patch_norms if cheapest == "patches" else _shift_norms
    pairs = zip(torch.split(x, size), torch.split(g, size), strict=True)
    return torch.cat([norms(a, b, weight, how) for a, b in pairs])


def _shift_norms(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    """The inputs' inner products once, and their copies shifted by every offset of the kernel added up."""
    count, size, out = len(x) * how.groups, x.shape[2:], g.shape[2:]
    rows = x.reshape(count, -1, math.prod(size))
    products = (rows.transpose(1, 2) @ rows).view(count, *size, *size)
    total = torch.zeros(count, *out, *out, dtype=x.dtype, device=x.device)
    for offset in itertools.product(*map(range, weight.shape[2:])):
        met = [
            _met(*each) for each in zip(offset, how.dilation, how.padding, how.stride, size, out, strict=True)
        ]
        if all(to.stop > to.start for to, _ in met):
            to, of = zip(*met, strict=True)
            total[(slice(None), *to, *to)] += products[(slice(None), *of, *of)]
    gradients = g.reshape(count, -1, math.prod(out))
    found: Tensor = vecdot(total.flatten(1), (gradients.transpose(1, 2) @ gradients).flatten(1))
    return found.view(len(x), how.groups).sum(1)


def _met(offset: int, dilation: int, padding: int, stride: int, size: int, out: int) -> tuple[slice, slice]:
    """The output positions at which a kernel offset meets the input along one axis, and the input positions there."""
    shift = offset * dilation - padding
    first = max(0, -(shift // stride)) if shift < 0 else 0
    last = min(out, (size - 1 - shift) // stride + 1)
    begin = first * stride + shift
    return slice(first, last), slice(begin, begin + stride * (last - first - 1) + 1, stride)


def _patch_norms(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    patches = F.unfold(x, weight.shape[2:], how.dilation, how.padding, how.stride)
    rows = g.flatten(2)
    a, b = patches.transpose(1, 2) @ patches, rows.transpose(1, 2) @ rows
    found: Tensor = vecdot(a.flatten(1), b.flatten(1))
    return found


def weight_squares(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    """Σ_i (∇_W ℓ_i)², in the weight's shape."""
    out = torch.zeros_like(weight)
    for some in _few(x, g, weight, how):
        if len(some) == 1:  # in one sweep
            out.addcmul_(some[0], some[0])
        else:
            out += some.square().sum(0)
    return out


def _few(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Iterator[Tensor]:
    """The gradients of one sample or a few at a time, [n, *weight]."""
    size = 1 if x.device.type == "cpu" else max(1, (1 << 26) // weight.numel())
    for a, b in zip(torch.split(x, size), torch.split(g, size), strict=True):
        yield weight_gradients(a, b, weight, how)


def weight_gradients(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    """∇_W ℓ_i, [N, *weight]."""
    if x.device.type != "cpu":
        patches = F.unfold(x, weight.shape[2:], how.dilation, how.padding, how.stride)
        rows = torch.unflatten(patches, 1, (how.groups, -1))
        arrived = torch.unflatten(g.flatten(2), 1, (how.groups, -1))
        return (arrived @ rows.transpose(2, 3)).reshape(len(x), *weight.shape)
    one = torch.ops.aten.convolution_backward
    rest = (how.stride, how.padding, how.dilation, False, [0, 0], how.groups, [False, True, False])
    pairs = zip(torch.split(x, 1), torch.split(g, 1), strict=True)
    return torch.stack([one(b, a, weight, None, *rest)[1] for a, b in pairs])
