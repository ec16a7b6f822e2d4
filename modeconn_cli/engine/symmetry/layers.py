"""Rules for what has weights: linear maps, convolutions, normalisations, embeddings; and for pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modeconn_cli.engine.symmetry.labels import Unproven, Words, product
from modeconn_cli.engine.symmetry.registry import Step, rule
from modeconn_cli.engine.symmetry.tensors import Labelled, from_axes, replaced

SPACE = "it is a position in space"


@rule("linear")
def linear(step: Step, x: Labelled, weight: Labelled, bias: Labelled | None = None, **_: object) -> Labelled:
    """(…, in), (out, in), (out,) -> (…, out)."""
    for read in (x, weight):
        step.mixes(read, -1)
    x = step.apart(x, [-1])
    out, inward = step.split(weight)
    last = len(x.shape) - 1
    step.equate(x.block(last).words, inward)
    step.carry(out, bias)
    step.produces("weight", out)
    return replaced(x, last, out)


@rule("bilinear")
def bilinear(
    step: Step, input1: Labelled, input2: Labelled, weight: Labelled, bias: Labelled | None = None
) -> Labelled:
    """(…, a), (…, b), (out, a, b), (out,) -> (…, out)."""
    for read, axes in ((input1, [-1]), (input2, [-1]), (weight, [-2, -1])):
        step.mixes(read, *axes)
    left, right = step.split(input1), step.split(input2)
    out, *inward = step.split(weight)
    for one, other in zip([*left[:-1], *inward], [*right[:-1], left[-1], right[-1]], strict=True):
        step.equate(one, other)
    step.carry(out, bias)
    step.produces("weight", out)
    return from_axes([*left[:-1], out])


@rule("embedding")
def embedding(step: Step, weight: Labelled, indices: Labelled, **_: object) -> Labelled:
    """(entries, features), (…) -> (…, features): the entries are numbered, the features may move."""
    step.mixes(weight, 0)
    entries, features = step.split(weight)
    step.freeze(entries)
    step.produces("weight", features)
    return from_axes([*step.split(indices), features])


@rule("conv1d", "conv2d", "conv3d")
def convolution(
    step: Step, x: Labelled, weight: Labelled, bias: Labelled | None = None, groups: int = 1, **_: object
) -> Labelled:
    """(N, g·i, …), (g·o, i, …), (g·o,) -> (N, g·o, …) with g groups of i inputs and o outputs.

    The groups are exchanged as blocks; within a group, inputs and outputs move alike in all groups, because the
    columns of the weight are shared by them. Depthwise: i = 1, an input and its outputs move together.
    """
    out, inward, *space = step.split(weight)
    number, inner = step.fresh(groups), step.fresh(len(inward))
    step.equate(inward, inner)
    step.equate(out, product(number, step.fresh(len(out) // groups)))
    step.mixes(weight, *range(1, len(weight.shape)))
    return _convolved(step, x, product(number, inner), out, bias, space, number)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(
    step: Step, x: Labelled, weight: Labelled, bias: Labelled | None = None, groups: int = 1, **_: object
) -> Labelled:
    """(N, g·i, …), (g·i, o, …), (g·o,) -> (N, g·o, …)."""
    inward, inner_out, *space = step.split(weight)
    number = step.fresh(groups)
    step.equate(inward, product(number, step.fresh(len(inward) // groups)))
    out = inner_out if groups == 1 else step.fresh(groups * len(inner_out))
    step.equate(out, product(number, inner_out))
    step.mixes(weight, 0, *range(2, len(weight.shape)), kept=number)
    return _convolved(step, x, inward, out, bias, space, number)


@rule("batch_norm", "instance_norm")
def channel_norm(step: Step, x: Labelled, **arguments: Any) -> Labelled:
    """Channels (axis 1) are normalised one by one."""
    axes = step.split(x)
    step.mixes(x, 0, *range(2, len(axes)))
    step.carry(axes[1], *(arguments.get(name) for name in ("weight", "bias", "running_mean", "running_var")))
    return from_axes(axes)


@rule("layer_norm", "rms_norm")
def layer_norm(
    step: Step,
    x: Labelled,
    normalized_shape: Sequence[int],
    weight: Labelled | None = None,
    bias: Labelled | None = None,
    **_: object,
) -> Labelled:
    """Statistics over the last axes, which do not see an order; scale and shift per element."""
    axes = range(len(x.shape) - len(normalized_shape), len(x.shape))
    for read in (x, weight, bias):
        step.mixes(read, *range(-len(normalized_shape), 0))
    x = step.apart(x, axes)
    for tensor in (weight, bias):
        if tensor is not None:
            for axis, words in zip(axes, step.split(tensor), strict=True):
                step.equate(x.block(axis).words, words)
    return x


@rule("group_norm")
def group_norm(
    step: Step,
    x: Labelled,
    num_groups: int,
    weight: Labelled | None = None,
    bias: Labelled | None = None,
    **_: object,
) -> Labelled:
    """Channels in blocks that share statistics: blocks are exchanged, and entries alike in all blocks."""
    axes, number = step.split(x), step.fresh(num_groups)
    step.mixes(x, *range(1, len(axes)), kept=number)
    for vector in (weight, bias):
        step.mixes(vector, 0, kept=number)
    step.equate(axes[1], product(number, step.fresh(len(axes[1]) // num_groups)))
    step.carry(axes[1], weight, bias)
    return from_axes(axes)


@rule(
    *(
        f"{kind}_pool{space}d"
        for kind in ("adaptive_avg", "adaptive_max", "avg", "max")
        for space in (1, 2, 3)
    ),
    *("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"),
    *(f"upsample_nearest{space}d" for space in (1, 2, 3)),
)
def pooling(step: Step, x: Labelled, **_: object) -> Labelled:
    """Along the trailing axes positions are mixed in place, channel by channel."""
    space = int(step.operation[-2])  # avg_pool2d -> 2
    axes = step.split(x)
    step.mixes(x, *range(-space, 0))
    step.freeze(*axes[-space:], reason=SPACE)
    return from_axes([*axes[:-space], *_positions(step, space)])


@rule("pixel_shuffle", placewise=True)
def pixel_shuffle(step: Step, x: Labelled, upscale_factor: int, **_: object) -> Labelled:
    """(…, c·r², h, w) -> (…, c, h·r, w·r): a channel of the output is r² channels of the input."""
    axes = step.split(x)
    channels = step.fresh(step.shape[-3])
    step.equate(axes[-3], product(channels, step.mark(upscale_factor**2)))
    step.freeze(*axes[-2:], reason=SPACE)
    return from_axes([*axes[:-3], channels, *_positions(step, 2)])


def _convolved(
    step: Step,
    x: Labelled,
    inward: Words,
    out: Words,
    bias: Labelled | None,
    space: list[Words],
    number: Words,
) -> Labelled:
    step.mixes(x, *range(-len(space) - 1, 0), kept=number)
    axes = step.split(x)
    channel = len(axes) - len(space) - 1
    if channel < 0:
        raise Unproven(f"{step.name} without a channel axis")
    step.equate(axes[channel], inward)
    step.freeze(*space, *axes[channel + 1 :], reason=SPACE)
    step.carry(out, bias)
    step.produces("weight", out)
    return from_axes([*axes[:channel], out, *_positions(step, len(space))])


def _positions(step: Step, count: int) -> list[Words]:
    """The last axes of the output, which are space."""
    return [step.fixed(size, SPACE) for size in step.shape[-count:]]
