"""The operations of generated networks: what a step computes and of which values, None where it does not apply.

Arguments: the network, the values so far (N, …), which of them is operated on, and two numbers that choose among forms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from soundness.blocks import attention, experts
from soundness.layers import Made, Network, Step


def divisors(number: int) -> list[int]:
    return [k for k in range(1, number + 1) if number % k == 0]


def linear(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    layer: nn.Module = nn.Linear(values[at].shape[-1], 2 + b % 7, bias=c % 3 > 0)
    if c == 7:
        layer = nn.utils.parametrizations.weight_norm(layer)
    return net.layer(layer), (at,)


def embedding(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    if values[at].is_floating_point():
        return None
    return net.layer(nn.Embedding(9, 2 + b)), (at,)


def convolution(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """Dense, grouped and depthwise ones, of one or two dimensions; sometimes transposed."""
    x = values[at]
    if x.ndim not in (3, 4):
        return None
    channels, space = x.shape[1], x.ndim - 2
    groups = divisors(channels)[c % len(divisors(channels))]
    out = groups * (1 + b % 3) if groups > 1 else 2 + b % 6
    size = 3 if min(x.shape[2:]) > 2 and c % 2 else 1
    if c == 11:
        kind: Any = nn.ConvTranspose1d if space == 1 else nn.ConvTranspose2d
    else:
        kind = nn.Conv1d if space == 1 else nn.Conv2d
    return net.layer(kind(channels, out, size, padding=size // 2, groups=groups, bias=b % 4 > 0)), (at,)


def norm(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    x = values[at]
    channels = x.shape[1]
    batch: Any = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}.get(x.ndim)
    groups = divisors(channels)[c % len(divisors(channels))]
    last = tuple(x.shape[-(1 + c % (x.ndim - 1)) :])
    spatial = x.ndim in (3, 4) and x[0, 0].numel() > 1
    instance: Any = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d}.get(x.ndim) if spatial else None
    made = (
        batch and batch(channels),
        nn.LayerNorm(last),
        nn.GroupNorm(groups, channels, affine=b != 9) if x[0].numel() > groups else None,
        nn.RMSNorm(last[-1:]),
        instance and instance(channels, affine=True),
    )[b % 5]
    return None if made is None else (net.layer(made), (at,))


ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.relu, torch.tanh, F.gelu, torch.sigmoid, lambda x: x.softmax(-1), lambda x: x.softmax(1), F.silu,
    lambda x: F.leaky_relu(x, 0.1), lambda x: x.clamp(-1, 1), lambda x: x.abs().add(1).log(), torch.sin, F.softplus,
)  # fmt: skip


def activation(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    if c == 5:
        return net.layer(nn.PReLU(values[at].shape[1])), (at,)
    function = ACTIVATIONS[b % len(ACTIVATIONS)]
    return (lambda m, x: function(x)), (at,)


BINARY: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    torch.add, torch.add, torch.sub, torch.mul, torch.maximum, lambda x, y: x * y.sigmoid(), torch.minimum,
    lambda x, y: torch.where(x > 0, x, y), lambda x, y: torch.lerp(x, y, 0.3), lambda x, y: x / (1 + y * y),
)  # fmt: skip


def other(values: Sequence[Tensor], at: int, fits: Callable[[Tensor], bool], c: int) -> int | None:
    """Another value that fits, the value itself where there is none and it does."""
    found = [k for k, value in enumerate(values) if k != at and value.is_floating_point() and fits(value)]
    if found:
        return found[-1 - c % len(found)]
    return at if fits(values[at]) else None


def residual(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """Two values of one shape, entry by entry."""
    x = values[at]
    second = other(values, at, lambda y: y.shape == x.shape, c)
    function = BINARY[b % len(BINARY)]
    return None if second is None else ((lambda m, x, y: function(x, y)), (at, second))


def broadcast(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """A value with a mean of another one or of itself, spread again (squeeze and excitation)."""
    x = values[at]
    if x.ndim < 3:
        return None
    axis = 1 + b % (x.ndim - 1)
    second = other(values, at, lambda y: y.shape == x.shape, c)
    function = BINARY[c % len(BINARY)]
    return None if second is None else ((lambda m, x, y: function(x, y.mean(axis, True))), (at, second))


def concatenation(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    x = values[at]
    axis = 1 + b % (x.ndim - 1)

    def fits(y: Tensor) -> bool:
        return y.ndim == x.ndim and all(y.shape[k] == x.shape[k] for k in range(x.ndim) if k != axis)

    second = other(values, at, fits, c)
    if c == 3:
        return (lambda m, x: torch.stack([x, x.flip(-1)], axis)), (at,)
    return None if second is None else ((lambda m, x, y: torch.cat([x, y], axis)), (at, second))


def reshape(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """Flattened, an axis split in two, or two axes made one."""
    x = values[at]
    axis = 1 + b % (x.ndim - 1)
    if c % 3 == 0:
        return (lambda m, x: x.flatten(1)), (at,)
    if c % 3 == 1 and x.ndim < 5:
        sizes = divisors(x.shape[axis])
        first = sizes[c % len(sizes)]
        return (lambda m, x: x.unflatten(axis, (first, -1))), (at,)
    return ((lambda m, x: x.flatten(axis, axis + 1)), (at,)) if axis + 1 < x.ndim else None


def permuted(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    x = values[at]
    if x.ndim < 3:
        return None
    first, second = 1 + b % (x.ndim - 1), 1 + c % (x.ndim - 1)
    return (lambda m, x: x.transpose(first, second)), (at,)


def parts(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """Some elements of an axis, in order or not; or two halves that meet again."""
    x = values[at]
    axis = 1 + b % (x.ndim - 1)
    size = x.shape[axis]
    start = c % size
    forms: list[Made] = [
        lambda m, x: x.narrow(axis, start, size - start),
        lambda m, x: x.narrow(axis, 0, start + 1),
        lambda m, x: x.flip(axis),
        lambda m, x: x.roll(start, axis),
        lambda m, x: torch.cat([x.narrow(axis, start, size - start), x.narrow(axis, 0, start)], axis),
    ]
    if size % 2 == 0:
        forms += [
            lambda m, x: torch.mul(*x.chunk(2, axis)),
            lambda m, x: F.glu(x, axis),
            lambda m, x: x.unflatten(axis, (2, -1)).sum(axis),
            lambda m, x: x.unflatten(axis, (-1, 2)).amax(axis + 1),
        ]
    if x.ndim > 2:
        forms.append(lambda m, x: x.select(axis, start))
    return forms[(b + c) % len(forms)], (at,)


def padded(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    x = values[at]
    widths = [0, 0] * (b % (x.ndim - 1)) + [c % 3, 1]
    if c == 6:
        return (lambda m, x: x.repeat(1, 2, *[1] * (x.ndim - 2))), (at,)
    return (lambda m, x: F.pad(x, widths)), (at,)


def reduced(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    x = values[at]
    axis, keep = 1 + b % (x.ndim - 1), c % 2 == 0 or x.ndim == 2
    functions: tuple[Callable[..., Tensor], ...] = (torch.mean, torch.sum, torch.amax, torch.logsumexp)
    function = functions[c % 4]
    return (lambda m, x: function(x, axis, keep)), (at,)


def pooled(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    x = values[at]
    if x.ndim != 4 or min(x.shape[2:]) < 2:
        return None
    forms: tuple[Made, ...] = (
        lambda m, x: F.max_pool2d(x, 2),
        lambda m, x: F.avg_pool2d(x, 2),
        lambda m, x: F.adaptive_avg_pool2d(x, 1),
        lambda m, x: F.interpolate(x, scale_factor=2.0),
        lambda m, x: F.pixel_shuffle(x, 2) if x.shape[1] % 4 == 0 else x,
        lambda m, x: F.channel_shuffle(x, 2) if x.shape[1] % 2 == 0 else x,
    )
    return forms[b % len(forms)], (at,)


def ordered(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """What reads an axis in order, and what no rule knows."""
    axis = 1 + b % (values[at].ndim - 1)
    forms: tuple[Made, ...] = (
        lambda m, x: x.cumsum(axis) / 4,
        lambda m, x: x.sort(axis).values,
        lambda m, x: torch.special.bessel_j0(x),
        lambda m, x: x.diff(dim=axis) if x.shape[axis] > 1 else x,
        lambda m, x: x.topk(1, axis).values,
        lambda m, x: x.cummax(axis).values,
    )
    return forms[c % len(forms)], (at,)


def scaled(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """A parameter or a buffer along one axis or all of them, or a matrix of parameters."""
    x = values[at]
    axis = 1 + b % (x.ndim - 1)
    along = [x.shape[k] if k == axis else 1 for k in range(1, x.ndim)]
    if c % 6 == 0:
        name = net.weight(*along)
        return (lambda m, x: x * getattr(m, name)), (at,)
    if c % 6 == 1:
        name = net.weight(1, *x.shape[1:])
        return (lambda m, x: x + getattr(m, name)), (at,)
    if c % 6 == 2:
        name = net.weight(x.shape[-1], 2 + b % 5)
        return (lambda m, x: x @ getattr(m, name)), (at,)
    if c % 6 == 3:
        name = net.weight(x.shape[axis] + 2, *along[axis:])  # positions beyond those of the input
        return (lambda m, x: x + getattr(m, name)[: x.shape[axis]]), (at,)
    name = f"{net.prefix}b"
    net.register_buffer(name, torch.randn(along), persistent=c % 6 == 4)
    return (lambda m, x: x + getattr(m, name)), (at,)


def tied(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """The weight of an earlier linear layer once more, transposed."""
    width = values[at].shape[-1]
    for name, layer in net.named_children():
        if type(layer) is nn.Linear and layer.weight.shape[0] == width:
            return (lambda m, x, name=name: F.linear(x, getattr(m, name).weight.T)), (at,)
    return None


def repeated(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """An earlier layer called again."""
    for _, made in net.again[b % (len(net.again) or 1) :]:
        try:
            with torch.no_grad():
                made(net, values[at])
        except (RuntimeError, ValueError):
            continue
        return made, (at,)
    return None


def product(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """Values multiplied as matrices: with themselves, or outer products."""
    x = values[at]
    if x.ndim == 2:
        return (lambda m, x: (x[:, :, None] * x[:, None].tanh()).flatten(1)), (at,)
    if x.ndim == 3 and c % 2:
        return (lambda m, x: torch.einsum("nij,nkj->nik", x, x.tanh()) / 2), (at,)
    return (lambda m, x: x @ x.transpose(-1, -2).tanh() / 2), (at,)


def assigned(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """Parts of a copy, or of zeros, are written in place."""
    axis = 1 + b % (values[at].ndim - 1)
    size = values[at].shape[axis]
    count = 1 + c % size

    def scale(m: Network, x: Tensor) -> Tensor:
        out = x.clone()
        out.narrow(axis, size - count, count).mul_(0.5)
        return out

    def shift(m: Network, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out.narrow(axis, 0, count).copy_(x.narrow(axis, size - count, count))
        return out + x.tanh()

    def replace(m: Network, x: Tensor) -> Tensor:
        out = x.clone()
        out.select(axis, count - 1).copy_(x.mean(axis))
        return out

    def spread(m: Network, x: Tensor) -> Tensor:
        out = x.new_zeros(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
        out.unflatten(axis, (size, 2)).select(axis + 1, 1).copy_(x)
        return out

    return (scale, shift, replace, spread)[(b + c) % 4], (at,)


def looked_up(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """Elements by their numbers, by a mask, or by the order of their values."""
    x = values[at]
    axis = 1 + b % (x.ndim - 1)
    size = x.shape[axis]
    forms: list[Made] = [
        lambda m, x: x.index_select(axis, torch.arange(c % size + 1)),
        lambda m, x: x[:, torch.arange(x.shape[1] - 1, -1, -1)],
        lambda m, x: x.gather(axis, x.argsort(axis)),
        lambda m, x: x.masked_fill(x > x.mean(axis, True), 0.5),
        lambda m, x: x.std(axis, keepdim=True) + x if size > 1 else x,
    ]
    if x.ndim > 2:
        forms += [lambda m, x: x.tril(), lambda m, x: x[:, torch.arange(x.shape[1]), 0]]
    return forms[c % len(forms)], (at,)


def paired(net: Network, values: Sequence[Tensor], at: int, b: int, c: int) -> Step | None:
    """Two values of one shape and a tensor of weights over both."""
    x = values[at]
    second = other(values, at, lambda y: y.shape == x.shape, c)
    if second is None:
        return None
    if c % 2:
        name = net.add(nn.Bilinear(x.shape[-1], x.shape[-1], 2 + b % 4))
        return (lambda m, x, y: getattr(m, name)(x, y)), (at, second)
    name = net.weight(2 + b % 4, x.shape[-1])
    letters = "abc"[: x.ndim - 2]
    equation = f"n{letters}i,n{letters}i,ki->n{letters}k"
    return (lambda m, x, y: torch.einsum(equation, x, y, getattr(m, name))), (at, second)


OPERATIONS: dict[str, Callable[[Network, Sequence[Tensor], int, int, int], Step | None]] = {
    function.__name__: function
    for function in (
        linear, embedding, convolution, norm, activation, residual, broadcast, concatenation, reshape, permuted, parts,
        padded, reduced, pooled, ordered, scaled, tied, repeated, attention, experts, product, assigned, looked_up,
        paired,
    )
}  # fmt: skip
