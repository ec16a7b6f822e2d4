"""Convolutions of 3 x 3 with stride 1 in tiles of 2 x 4 outputs, with 24 multiplications per tile instead of 72.

Winograd's minimal filtering F(2 x 4, 3 x 3) (Lavin and Gray 2016, arXiv:1509.09308): image and kernel are polynomials
that are evaluated at points, multiplied there and interpolated. Rows take the points 0, ±1 and ∞, columns 0, ±3/4, ±3/2
and ∞, all exact in binary; columns at 0, ±1, ±2 and ∞, which are used more often, have one and a half times the error.
With these the error is on average that of direct kernels for channels last, as each product sums a ninth of the terms:
with 128, 256 and 512 channels 5.5e-7, 5.6e-7 and 7.7e-7 of the mean output against 4.3e-7, 5.8e-7 and 8.4e-7 (root
mean square, float32). It is another one at every place of a tile, though: equal patches of an image, which direct
kernels give equal outputs, differ in their last bits here, and what should be exactly zero need not be.

The transformed weights take 5.3 times the memory of the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd

CHANNELS = 128  # below it the sums around the products take as long as what is saved (measured on two cores)
WASTE = 4 / 3  # of tiles that reach over the edge
CHUNK = 2**20  # values of the images that are transformed at once: what lies around them stays in the cache
BLOCK = 16  # images of a chunk are a multiple of it

NEAR, FAR = 0.75, 1.5  # points of the columns


@dataclass(frozen=True)
class Kernel:
    """A convolution's transformed weights, [4, 6, in, out], those of its gradient, [4, 6, out, in], and bias [out]."""

    ahead: Tensor
    back: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Kernel:
        """Weight [out, in, 3, 3], float32."""
        return cls(_transformed(weight), _transformed(weight.flip(2, 3).transpose(0, 1)), bias)


def suits(channels: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether tiles are faster than the direct kernels, for channels (out, in) and images of a size (H, W)."""
    height, width = size
    tiles = -(-height // 2) * -(-width // 4)
    return min(channels) >= CHANNELS and 8 * tiles <= WASTE * height * width


def convolve(images: Tensor, kernel: Kernel) -> Tensor:
    """Float32 [N, in, H, W] -> [N, out, H, W], padded by 1, both channels last; differentiable any number of times.

    A value does not depend on the other images of the batch, where that is a multiple of 16: below it libraries take
    other kernels for the products.
    """
    return cast("Tensor", _Convolution.apply(images, kernel.ahead, kernel.back, kernel.bias))


class _Convolution(torch.autograd.Function):
    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, images: Tensor, ahead: Tensor, back: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weights = ahead, back
        height, width = images.shape[2:]
        over = -width % 4, -height % 2
        if any(over):
            images = F.pad(images, (0, over[0], 0, over[1]))
        out = torch.empty((len(images), ahead.shape[3], *images.shape[2:]), memory_format=torch.channels_last)
        at_once = max(BLOCK, CHUNK // math.prod(images.shape[1:]) // BLOCK * BLOCK)
        for some, place in zip(torch.split(images, at_once), torch.split(out, at_once), strict=True):
            _tiles(some.permute(0, 2, 3, 1).contiguous(), ahead, place.permute(0, 2, 3, 1))
            if bias is not None:
                place += bias.view(-1, 1, 1)
        # No view, as what follows may write into it.
        return out[:, :, :height, :width].clone(memory_format=torch.channels_last) if any(over) else out

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        ahead, back = ctx.weights
        return _Convolution.apply(gradients[0], back, ahead, None), None, None, None


def _transformed(weight: Tensor) -> Tensor:
    """[out, in, 3, 3] -> [4, 6, in, out]: the kernel's values at the points, over what the interpolation divides by."""
    taps = weight.double().permute(2, 3, 1, 0)
    rows, columns = (_evaluation(points) for points in ([0.0, 1, -1], [0.0, NEAR, -NEAR, FAR, -FAR]))
    return torch.einsum("pa,qb,abio->pqio", rows, columns, taps).to(weight.dtype).contiguous()


def _evaluation(points: list[float]) -> Tensor:
    """The matrix from three taps to the values at the points and ∞, each over its differences from the others."""
    at = torch.tensor(points, dtype=torch.float64)
    apart = (at.unsqueeze(1) - at).fill_diagonal_(1).prod(1)
    last = torch.tensor([[0, 0, 1]], dtype=torch.float64)
    return torch.cat([at.unsqueeze(1) ** torch.arange(3) / apart.unsqueeze(1), last])


def _tiles(images: Tensor, weight: Tensor, out: Tensor) -> None:
    """[N, H, W, in] -> `out` [N, H, W, out]; H is even and W a multiple of 4."""
    count, height, width, channels = images.shape
    down, across = height // 2, width // 4
    lines = _columns(images).view(6, count, down + 1, 2, across, channels)
    even, odd = lines[:, :, :, 0], lines[:, :, :, 1]
    d0, d1, d2, d3 = even[:, :, :-1], odd[:, :, :-1], even[:, :, 1:], odd[:, :, 1:]

    # The points of the rows, one after the other: one product is held at a time.
    point = images.new_empty(d0.shape)
    flat = point.view(6, count * down * across, channels)
    at_one = torch.bmm(torch.add(d2, d1, out=point).view_as(flat), weight[1])
    at_minus_one = torch.bmm(torch.sub(d2, d1, out=point).view_as(flat), weight[2])
    products = at_one.new_empty(2, *at_one.shape)
    torch.add(at_one, at_minus_one, out=products[0])
    torch.sub(at_one, at_minus_one, out=products[1])
    torch.sub(d2, d0, out=point)
    products[0].baddbmm_(flat, weight[0])
    torch.sub(d3, d1, out=point)
    products[1].baddbmm_(flat, weight[3])

    tiles = out.view(count, down, 2, across, 4, out.shape[3]).permute(
        4, 2, 0, 1, 3, 5
    )  # [4, 2, N, H / 2, W / 4, out]
    _interpolate(products.view(2, 6, *tiles.shape[2:]).unbind(1), tiles)


def _columns(images: Tensor) -> Tensor:
    """The columns of tiles at their points, [N, H, W, in] -> [6, N, H + 2, W / 4, in], with a row of zeros around."""
    count, height, width, channels = images.shape
    d1, d2, d3, d4 = images.view(count, height, width // 4, 4, channels).unbind(3)
    out = images.new_empty(6, count, height + 2, width // 4, channels)
    out[:, :, :: height + 1] = 0
    zero, near, minus_near, far, minus_far, infinity = out[:, :, 1:-1].unbind(0)
    for square, factor, plus, minus in ((FAR**2, NEAR, near, minus_near), (NEAR**2, FAR, far, minus_far)):
        even, odd = torch.sub(d4, d2, alpha=square), torch.sub(d3, d1, alpha=square)
        torch.add(even, odd, alpha=factor, out=plus)
        torch.sub(even, odd, alpha=factor, out=minus)
    # The factors of (x² - NEAR²) (x² - FAR²) = x⁴ - sum x² + product.
    total, product = NEAR**2 + FAR**2, (NEAR * FAR) ** 2
    before, after = d4[:, :, :-1], d1[:, :, 1:]  # the columns beside a tile
    torch.sub(d4, d2, alpha=total, out=zero)
    zero[:, :, 1:].add_(before, alpha=product)
    torch.mul(d1, product, out=infinity).sub_(d3, alpha=total)
    infinity[:, :, :-1].add_(after)
    return out


def _interpolate(at: tuple[Tensor, ...], out: Tensor) -> None:
    """From values at the points of the columns, which are used up, to four columns, `out` [4, ...]."""
    zero, near, minus_near, far, minus_far, infinity = at
    even_near, odd_near = near + minus_near, near.sub_(minus_near)
    even_far, odd_far = far + minus_far, far.sub_(minus_far)
    torch.add(zero.add_(even_near), even_far, out=out[0])
    torch.add(odd_near.mul_(NEAR), odd_far, alpha=FAR, out=out[1])
    torch.add(even_near.mul_(NEAR**2), even_far, alpha=FAR**2, out=out[2])
    torch.add(odd_near.mul_(NEAR**2).add_(odd_far, alpha=FAR**3), infinity, out=out[3])
