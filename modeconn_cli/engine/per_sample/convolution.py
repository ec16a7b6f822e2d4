"""Squared norms of every sample's weight gradient of a convolution.

A convolution multiplies its weight with the patches of the input. Three exact ways, with C, D channels in and out,
K kernel positions, P input and T output positions per sample and group:
the gradient itself (T·C·K·D); the patches' inner products over positions (T²·(C·K + D)); and, without making the
patches, the inputs' inner products, whose shifted copies the kernel's offsets add up (P²·C + T²·(K + D)).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vecdot

CHUNK = 1 << 22  # elements of inner products made at a time: they stay in the cache

# Time per multiplication relative to that of a large matrix product, measured on two cores: patches have to be
# copied, shifted sums only touch memory, and the gradient of one sample is written and read again.
_PATCH, _SHIFT, _CELL = 30.0, 12.0, 20.0


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
            raise NotImplementedError("uneven padding")
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
    positions, padded = math.prod(g.shape[2:]), _padded(x, how)
    costs = {
        "gradient": per_group * kernel * outputs * (positions + _CELL),
        "patches": positions**2 * (per_group * kernel + outputs) + _PATCH * positions * per_group * kernel,
        "shifts": padded**2 * per_group + positions**2 * (outputs + _SHIFT * kernel),
    }
    if x.ndim != 4 or how.groups != 1:
        del costs["patches"]
    cheapest = min(costs, key=lambda name: costs[name])
    if cheapest == "gradient":
        return _gradient_norms(x, g, weight, how)
    largest = positions * per_group * kernel if cheapest == "patches" else padded**2
    size = max(1, CHUNK // (largest * how.groups))
    norms = _patch_norms if cheapest == "patches" else _shift_norms
    pairs = zip(torch.split(x, size), torch.split(g, size), strict=True)
    return torch.cat([norms(a, b, weight, how) for a, b in pairs])


def _padded(x: Tensor, how: Geometry) -> int:
    return math.prod(size + 2 * pad for size, pad in zip(x.shape[2:], how.padding, strict=True))


def _shift_norms(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    count = len(x) * how.groups
    pads = [pad for size in reversed(how.padding) for pad in (size, size)]
    around = F.pad(x, pads)
    sides, out = around.shape[2:], g.shape[2:]
    rows = around.reshape(count, -1, math.prod(sides))
    products = (rows.transpose(1, 2) @ rows).view(count, *sides, *sides)
    total: Tensor | None = None
    for offset in itertools.product(*map(range, weight.shape[2:])):
        window = tuple(
            slice(o * d, o * d + s * (size - 1) + 1, s)
            for o, d, s, size in zip(offset, how.dilation, how.stride, out, strict=True)
        )
        shifted = products[(slice(None), *window, *window)]
        total = shifted.clone() if total is None else total.add_(shifted)
    assert total is not None
    gradients = g.reshape(count, -1, math.prod(out))
    gram = gradients.transpose(1, 2) @ gradients
    along: Tensor = vecdot(total.reshape(count, -1), gram.flatten(1))
    return along.view(len(x), how.groups).sum(1)


def _patch_norms(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    patches = F.unfold(x, weight.shape[2:], how.dilation, how.padding, how.stride)
    rows = g.flatten(2)
    a, b = patches.transpose(1, 2) @ patches, rows.transpose(1, 2) @ rows
    along: Tensor = vecdot(a.flatten(1), b.flatten(1))
    return along


def _gradient_norms(x: Tensor, g: Tensor, weight: Tensor, how: Geometry) -> Tensor:
    """From the gradients, one sample or a few at a time."""
    size = 1 if x.device.type == "cpu" else max(1, (1 << 26) // weight.numel())
    pairs = zip(torch.split(x, size), torch.split(g, size), strict=True)
    return torch.cat([weight_gradients(a, b, weight, how).flatten(1).square().sum(1) for a, b in pairs])


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
