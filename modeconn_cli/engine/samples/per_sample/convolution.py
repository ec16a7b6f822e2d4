"""Squared norms of every sample's weight gradient of a convolution.

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

from modeconn_cli.engine.networks.layout import Unclear

CHUNK = 1 << 20  # elements of inner products made at a time: they stay in the cache

# Costs in multiplications of a large matrix product, measured on two cores: copying a patch's element, adding a
# shifted one, writing and reading an element of one sample's gradient, and calling the kernel for one sample.
_PATCH, _SHIFT, _CELL, _CALL = 30.0, 4.0, 40.0, 6e6


@dataclass(frozen=True)
class Geometry:
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def geometry(args: Sequence[Any]) -> Geometry:
    """Of the arguments of `aten.conv1d` … `conv3d`; padding may be `same` or `valid`."""
    weight: Tensor = args[1]
    dims = weight.ndim - 2

    def each(place: int, default: int) -> tuple[int, ...]:
        value = args[place] if len(args) > place else default
        values = [value] * dims if isinstance(value, int) else list(value)
        return tuple(values * dims if len(values) == 1 else values)

    dilation = each(5, 1)
    padding: tuple[int, ...]
    if len(args) > 4 and isinstance(args[4], str):
        reach = [d * (size - 1) for d, size in zip(dilation, weight.shape[2:], strict=True)]
        if args[4] == "same" and any(r % 2 for r in reach):
            raise Unclear("a convolution pads one side more than the other")
        padding = tuple(r // 2 for r in reach) if args[4] == "same" else (0,) * dims
    else:
        padding = each(4, 0)
    return Geometry(each(3, 1), padding, dilation, args[6] if len(args) > 6 else 1)


def weight_norms(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    """‖∇_W ℓ_i‖², [N]; x [N, C, …], g [N, D, …]."""
    if x.ndim != weight.ndim:  # several images per sample: their gradients add up
        return weight_gradients(x, g, weight, how).flatten(1).square().sum(1)
    kernel, per_group = math.prod(weight.shape[2:]), weight.shape[1]
    outputs = weight.shape[0] // how.groups
    positions, inputs = math.prod(g.shape[2:]), math.prod(x.shape[2:])
    costs = {
        "gradient": per_group * kernel * outputs * (positions + _CELL) + _CALL / how.groups,
        "patches": positions**2 * (per_group * kernel + outputs) + _PATCH * positions * per_group * kernel,
        "shifts": inputs**2 * per_group + positions**2 * (outputs + _SHIFT * kernel),
    }
    if x.ndim != 4 or how.groups != 1:
        del costs["patches"]
    cheapest = min(costs, key=lambda name: costs[name])
    if cheapest == "gradient":
        return _gradient_norms(x, g, weight, how)
    largest = positions * per_group * kernel if cheapest == "patches" else inputs**2
    size = max(1, CHUNK // (largest * how.groups))
    norms = _patch_norms if cheapest == "patches" else _shift_norms
    pairs = zip(torch.split(x, size), torch.split(g, size), strict=True)
    return torch.cat([norms(a, b, weight, how) for a, b in pairs])


def _shift_norms(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    """The inputs' inner products once, and their copies shifted by every offset of the kernel added up."""
    count, sides, out = len(x) * how.groups, x.shape[2:], g.shape[2:]
    rows = x.reshape(count, -1, math.prod(sides))
    products = (rows.transpose(1, 2) @ rows).view(count, *sides, *sides)
    total = torch.zeros(count, *out, *out, dtype=x.dtype, device=x.device)
    for offset in itertools.product(*map(range, weight.shape[2:])):
        spans = [
            _span(*each)
            for each in zip(offset, how.dilation, how.padding, how.stride, sides, out, strict=True)
        ]
        if all(last > first for first, last, _ in spans):
            to = tuple(slice(first, last) for first, last, _ in spans)
            of = tuple(
                slice(begin, begin + step * (last - first - 1) + 1, step)
                for (first, last, begin), step in zip(spans, how.stride, strict=True)
            )
            total[(slice(None), *to, *to)] += products[(slice(None), *of, *of)]
    gradients = g.reshape(count, -1, math.prod(out))
    gram = gradients.transpose(1, 2) @ gradients
    along: Tensor = vecdot(total.flatten(1), gram.flatten(1))
    return along.view(len(x), how.groups).sum(1)


def _span(o: int, dilation: int, padding: int, stride: int, side: int, out: int) -> tuple[int, int, int]:
    """The output positions [first, last) at which a kernel offset meets the input, and where the first one does."""
    shift = o * dilation - padding
    first = max(0, -(shift // stride)) if shift < 0 else 0
    last = min(out, (side - 1 - shift) // stride + 1)
    return first, last, first * stride + shift


def _patch_norms(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    patches = F.unfold(x, weight.shape[2:], how.dilation, how.padding, how.stride)
    rows = g.flatten(2)
    a, b = patches.transpose(1, 2) @ patches, rows.transpose(1, 2) @ rows
    along: Tensor = vecdot(a.flatten(1), b.flatten(1))
    return along


def _gradient_norms(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    """From the gradients, one sample or a few at a time."""
    return torch.cat([some.flatten(1).square().sum(1) for some in _few(x, g, weight, how)])


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
    """∇_W ℓ_i, [N, *weight]. With x [N, F, C, …] the gradients of the F images of a sample are summed."""
    dims = weight.ndim - 2
    if x.ndim == weight.ndim and x.device.type != "cpu" and dims == 2:
        patches = F.unfold(x, weight.shape[2:], how.dilation, how.padding, how.stride)
        rows = torch.unflatten(patches, 1, (how.groups, -1))
        grads = torch.unflatten(g.flatten(2), 1, (how.groups, -1))
        made: Tensor = grads @ rows.transpose(2, 3)
        return made.reshape(len(x), *weight.shape)
    images = [(a if x.ndim > weight.ndim else a[None]) for a in x]
    arriving = [(b if x.ndim > weight.ndim else b[None]) for b in g]
    mask, zeros = [False, True, False], [0] * dims
    one = torch.ops.aten.convolution_backward
    return torch.stack(
        [
            one(b, a, weight, None, how.stride, how.padding, how.dilation, False, zeros, how.groups, mask)[1]
            for a, b in zip(images, arriving, strict=True)
        ]
    )
