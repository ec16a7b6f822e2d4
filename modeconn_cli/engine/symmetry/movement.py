"""Rules for operations that only move elements: views, cuts, joins, padding, lookups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modeconn_cli.engine.symmetry.labels import Unproven, Words, joined, marked, product, repeated
from modeconn_cli.engine.symmetry.registry import Step, rule
from modeconn_cli.engine.symmetry.values import (
    Value,
    from_axes,
    permuted,
    replaced,
    reshaped,
    taken,
    without_constants,
)


@rule(
    *("_reshape_alias", "_unsafe_view", "flatten", "ravel", "reshape", "reshape_as", "squeeze", "unflatten"),
    *("unsqueeze", "view", "view_as", "view_copy"),
)
def view(step: Step, x: Value, **_: object) -> Value:
    return reshaped(step.labels, x, step.shape)


@rule("permute", "permute_copy")
def permute(_step: Step, x: Value, dims: Sequence[int], **_: object) -> Value:
    return permuted(x, [dim % len(dims) for dim in dims])


@rule("transpose", "swapaxes", "swapdims", "transpose_copy")
def transpose(_step: Step, x: Value, **dims: int) -> Value:
    order = list(range(len(x.shape)))
    one, other = dims.values()
    order[one], order[other] = order[other], order[one]
    return permuted(x, order)


@rule("t", "numpy_T", "mT", "adjoint")
def matrix_transpose(step: Step, x: Value, **_: object) -> Value:
    order = list(range(len(x.shape)))
    if len(order) > 2 and step.operation == "numpy_T":
        return permuted(x, order[::-1])
    return permuted(x, [*order[:-2], *order[-2:][::-1]])


@rule("movedim", "moveaxis")
def movedim(_step: Step, x: Value, source: int | Sequence[int], destination: int | Sequence[int]) -> Value:
    rank = len(x.shape)
    sources, places = np.atleast_1d(source) % rank, np.atleast_1d(destination) % rank
    order = [axis for axis in range(rank) if axis not in sources]
    for place, axis in sorted(zip(places.tolist(), sources.tolist(), strict=True)):
        order.insert(place, axis)
    return permuted(x, order)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(step: Step, x: Value, groups: int) -> Value:
    batch, channels, *space = x.shape
    apart = reshaped(step.labels, x, [batch, groups, channels // groups, *space])
    mixed = permuted(apart, [0, 2, 1, *range(3, 3 + len(space))])
    return reshaped(step.labels, mixed, x.shape)


@rule("expand", "expand_as", "expand_copy", "broadcast_to")
def expand(step: Step, x: Value, **_: object) -> Value:
    """Repeated elements are equal, so they permute freely."""
    axes = step.split(x)
    out = [step.fresh(size) for size in step.shape[: len(step.shape) - len(axes)]]
    for words, size in zip(axes, step.shape[len(out) :], strict=True):
        out.append(words if len(words) == size else step.fresh(size))
    return from_axes(out)


@rule("repeat", "tile")
def repeat(step: Step, x: Value, **_: object) -> Value:
    """Copies one after the other: copy r of element k has the word (r, k), and copies permute freely."""
    axes = step.split(x)
    out = [step.fresh(size) for size in step.shape[: len(step.shape) - len(axes)]]
    for words, size in zip(axes, step.shape[len(out) :], strict=True):
        out.append(product(step.fresh(size // len(words)), words))
    return from_axes(out)


@rule("slice", "slice_copy")
def slice_(
    at: Step, /, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    return _part(at, x, dim % len(x.shape), np.arange(x.shape[dim])[start:end:step])


@rule("narrow", "narrow_copy")
def narrow(step: Step, x: Value, dim: int, start: object, length: int) -> Value:
    if not isinstance(start, int):
        raise Unproven(f"{step.name} starts at a computed place")
    return _part(step, x, dim % len(x.shape), np.arange(x.shape[dim])[start:][:length])


@rule("select", "select_copy")
def select(step: Step, x: Value, dim: int, index: object) -> Value:
    if not isinstance(index, int):
        raise Unproven(f"{step.name} selects a computed place")
    axis = dim % len(x.shape)
    return _one(step, x, axis, index % x.shape[axis])


@rule("unbind", "unbind_copy")
def unbind(step: Step, x: Value, dim: int = 0) -> list[Value]:
    axis = dim % len(x.shape)
    return [_one(step, x, axis, index) for index in range(x.shape[axis])]


@rule("chunk", "split", "split_copy", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split")
def chunk(step: Step, x: Value, dim: int = 0, **_: object) -> list[Value]:
    """Consecutive parts; their sizes are those of the outputs."""
    axis = dim % len(x.shape)
    ends = np.cumsum([shape[axis] for shape in step.shapes])
    return [
        _part(step, x, axis, np.arange(end - shape[axis], end))
        for end, shape in zip(ends.tolist(), step.shapes, strict=True)
    ]


@rule("cat", "concat", "concatenate")
def cat(step: Step, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Parts side by side. Where a label comes twice (x beside x + f(x)) the words say which part they are in."""
    parts = [step.split(tensor) for tensor in tensors]
    dim %= len(step.shape)
    out: list[Words] = []
    for axis in range(len(step.shape)):
        along = [part[axis] for part in parts]
        if axis != dim:
            for other in along[1:]:
                step.equate(along[0], other)
            out.append(along[0])
            continue
        words = joined(along)
        expanded = step.labels.expand(words)
        if step.tagged or (repeated(expanded) & ~step.labels.frozen(expanded).all(axis=1)).any():
            words = joined([marked(part, step.mark()) for part in along])
        step.seam(words)
        out.append(words)
    return from_axes(out)


@rule("stack")
def stack(step: Step, tensors: Sequence[Value], dim: int = 0) -> Value:
    parts = [step.split(tensor) for tensor in tensors]
    for other in parts[1:]:
        for one, words in zip(parts[0], other, strict=True):
            step.equate(one, words)
    place = dim % len(step.shape)
    return from_axes([*parts[0][:place], step.fixed(len(parts)), *parts[0][place:]])


@rule("flip", "fliplr", "flipud")
def flip(_step: Step, x: Value, dims: Sequence[int], **_: object) -> Value:
    for dim in dims:
        x = taken(x, dim % len(x.shape), np.arange(x.shape[dim])[::-1])
    return x


@rule("roll")
def roll(step: Step, x: Value, shifts: Sequence[int], dims: Sequence[int] = ()) -> Value:
    if not dims:
        raise Unproven(f"{step.name} over the flattened tensor")
    for shift, dim in zip(shifts, dims, strict=True):
        x = taken(x, dim % len(x.shape), np.roll(np.arange(x.shape[dim]), shift))
    return x


@rule("pad", "constant_pad_nd")
def pad(step: Step, x: Value, pad: Sequence[int], mode: str = "constant", **_: object) -> Value:
    """Pairs (before, after) from the last axis backwards; a constant margin permutes freely."""
    axes = step.split(x)
    for back, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        if before == after == 0:
            continue
        if mode != "constant":
            step.freeze(axes[-back])
            axes[-back] = step.fixed(step.shape[-back])
        elif min(before, after) < 0:
            raise Unproven(f"{step.name} cuts the margin off")
        else:
            axes[-back] = joined([step.fresh(before), axes[-back], step.fresh(after)])
    return from_axes(axes)


@rule("index_select")
def index_select(step: Step, x: Value, dim: int, index: Value) -> Value:
    axes = step.split(x)
    step.freeze(axes[dim], *step.split(index))
    axes[dim] = step.fixed(step.shape[dim])
    return from_axes(axes)


@rule("index")
def index(step: Step, x: Value, indices: Sequence[Value | None]) -> Value:
    """x[:, i, j]: the indexed axes are numbered and stay; the others are carried over."""
    axes = step.split(x)
    places = [axis for axis, place in enumerate(indices) if place is not None]
    step.freeze(*(axes[axis] for axis in places))
    for place in indices:
        if place is not None:
            step.freeze(*step.split(place))
    kept = [words for axis, words in enumerate(axes) if axis not in places]
    # Neighbouring indices leave their axes where they were; others go to the front, as in NumPy.
    first = places[0] if places == list(range(places[0], places[0] + len(places))) else 0
    new = len(step.shape) - len(kept)
    found = [step.fixed(size) for size in step.shape[first : first + new]]
    return from_axes([*kept[:first], *found, *kept[first:]])


def _part(step: Step, x: Value, axis: int, index: Words) -> Value:
    """Some elements of one axis, in the order of `index`."""
    part = taken(x, axis, index)
    block, whole = part.block(axis), x.block(axis)
    if len(block.flat) in (1, len(whole.flat)):
        return part
    step.seam(whole.flat)
    step.record(block.flat)  # before factors are dropped that say which part this is
    words = step.labels.expand(block.flat)
    if step.tagged and words.shape[1] == 1 and not step.labels.frozen(words).any():
        # Two parts turned out to move alike (a gate beside its values, queries beside keys): say in the words of
        # the uncut axis which part an element is in.
        units = step.fresh(len(words))
        step.equate(words, marked(units, step.mark()))
        words = units
    return replaced(part, axis, without_constants(words.reshape(*block.sizes, -1)))


def _one(step: Step, x: Value, axis: int, index: int) -> Value:
    """The element `index` of one axis, without the axis."""
    part = _part(step, x, axis, np.array([index]))
    step.record(part.block(axis).flat)
    return reshaped(step.labels, part, [size for k, size in enumerate(x.shape) if k != axis])
