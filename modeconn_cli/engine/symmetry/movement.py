"""Rules for operations that only move elements: views, cuts, joins, padding, lookups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from modeconn_cli.engine.symmetry.labels import Unproven, Words, joined, marked, product, repeated
from modeconn_cli.engine.symmetry.registry import Cut, Step, rule
from modeconn_cli.engine.symmetry.tensors import (
    Block,
    Labelled,
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
    placewise=True,
)
def view(step: Step, x: Labelled, **_: object) -> Labelled:
    return reshaped(step.labels, x, step.shape)


@rule(
    *("adjoint", "mT", "moveaxis", "movedim", "numpy_T", "permute", "permute_copy", "swapaxes", "swapdims"),
    *("t", "transpose", "transpose_copy"),
    placewise=True,
)
def reordered(step: Step, x: Labelled, **_: object) -> Labelled:
    """Where each axis goes shows the operation itself, applied to a tensor whose sizes number its axes."""
    numbered = torch.empty(*range(1, len(x.shape) + 1), device="meta")
    order = step.node.target(numbered, *step.node.args[1:], **step.node.kwargs).shape  # type: ignore[operator]
    return permuted(x, [number - 1 for number in order])


@rule("channel_shuffle", "native_channel_shuffle", placewise=True)
def channel_shuffle(step: Step, x: Labelled, groups: int) -> Labelled:
    batch, channels, *space = x.shape
    apart = reshaped(step.labels, x, [batch, groups, channels // groups, *space])
    mixed = permuted(apart, [0, 2, 1, *range(3, 3 + len(space))])
    return reshaped(step.labels, mixed, x.shape)


@rule("broadcast_to", "expand", "expand_as", "expand_copy", "repeat", "tile", placewise=True)
def repeat(step: Step, x: Labelled, **_: object) -> Labelled:
    """Copies one after the other: copy r of element k has the word (r, k), and copies permute freely."""
    axes = step.split(x)
    out = [step.fresh(size) for size in step.shape[: len(step.shape) - len(axes)]]
    for words, size in zip(axes, step.shape[len(out) :], strict=True):
        out.append(words if len(words) == size else product(step.fresh(size // len(words)), words))
    return from_axes(out)


@rule("repeat_interleave", placewise=True)
def repeat_interleave(
    step: Step, x: Labelled | None = None, repeats: object = None, dim: int | None = None, **_: object
) -> Labelled:
    """Copies one beside the other: copy r of element k has the word (k, r)."""
    if x is None or not isinstance(repeats, int) or dim is None:
        raise Unproven(f"{step.name} with several numbers of copies, or of the flattened tensor")
    axes = step.split(x)
    axes[dim] = product(axes[dim], step.fresh(repeats))
    return from_axes(axes)


@rule("view_as_complex", placewise=True)
def view_as_complex(step: Step, x: Labelled) -> Labelled:
    """(…, 2) -> (…,): real and imaginary parts are not exchanged."""
    last = len(x.shape) - 1
    x = step.apart(x, [last])
    step.freeze(x.block(last).words)
    return Labelled(tuple(block for block in x.blocks if block.axes != (last,)))


@rule("view_as_real", placewise=True)
def view_as_real(step: Step, x: Labelled) -> Labelled:
    return Labelled((*x.blocks, Block((len(x.shape),), step.fixed(2))))


@rule(
    *(
        "chunk",
        "narrow",
        "narrow_copy",
        "select",
        "select_copy",
        "slice",
        "slice_copy",
        "split",
        "split_copy",
    ),
    *("split_with_sizes", "tensor_split", "unbind", "unbind_copy", "unsafe_chunk", "unsafe_split"),
    placewise=True,
)
def parts(at: Step, /, x: Labelled, dim: int = 0, **arguments: Any) -> Labelled | list[Labelled]:
    """Elements of one axis: the operation itself, applied to their numbers, shows which."""
    if any(isinstance(argument, Labelled) for argument in arguments.values()):
        raise Unproven(f"{at.name} starts at a computed place")
    rank, axis = len(x.shape), dim % len(x.shape)
    numbers = torch.arange(x.shape[axis]).view([-1 if k == axis else 1 for k in range(rank)])
    found = at.node.target(numbers, dim=dim, **arguments)  # type: ignore[operator]
    if isinstance(found, torch.Tensor):
        return _part(at, x, axis, found)
    return [_part(at, x, axis, each) for each in found]


@rule("cat", "concat", "concatenate", placewise=True)
def cat(step: Step, tensors: Sequence[Labelled], dim: int = 0) -> Labelled:
    """Parts side by side. Where a label comes twice (x beside x + f(x)) the words say which part they are in."""
    parts = [step.split(tensor) for tensor in tensors]
    dim %= len(step.shape)
    out: list[Words] = []
    for axis, along in enumerate(zip(*parts, strict=True)):
        if axis != dim:
            step.equate(*along)
            out.append(along[0])
            continue
        words = joined(along)
        expanded = step.labels.expand(words)
        if step.tagged or (repeated(expanded) & ~step.labels.frozen(expanded).all(axis=1)).any():
            words = joined([marked(part, step.mark()) for part in along])
        step.seam(words)
        out.append(words)
    return from_axes(out)


@rule("stack", placewise=True)
def stack(step: Step, tensors: Sequence[Labelled], dim: int = 0) -> Labelled:
    parts = [step.split(tensor) for tensor in tensors]
    for along in zip(*parts, strict=True):
        step.equate(*along)
    place = dim % len(step.shape)
    return from_axes([*parts[0][:place], step.fixed(len(parts)), *parts[0][place:]])


@rule("flip", "fliplr", "flipud", placewise=True)
def flip(step: Step, x: Labelled, dims: Sequence[int] = (), **_: object) -> Labelled:
    for dim in {"fliplr": (1,), "flipud": (0,)}.get(step.operation, dims):
        x = taken(x, dim % len(x.shape), np.arange(x.shape[dim])[::-1])
    return x


@rule("roll", placewise=True)
def roll(step: Step, x: Labelled, shifts: Sequence[int], dims: Sequence[int] = ()) -> Labelled:
    if not dims:
        raise Unproven(f"{step.name} over the flattened tensor")
    for shift, dim in zip(shifts, dims, strict=True):
        x = taken(x, dim % len(x.shape), np.roll(np.arange(x.shape[dim]), shift))
    return x


@rule("pad", "constant_pad_nd", placewise=True)
def pad(step: Step, x: Labelled, pad: Sequence[int], mode: str = "constant", **_: object) -> Labelled:
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


@rule("index_select", placewise=True)
def index_select(step: Step, x: Labelled, dim: int, index: Labelled) -> Labelled:
    return indexed(step, x, [*[None] * (dim % len(x.shape)), index])


@rule("index", placewise=True)
def indexed(step: Step, x: Labelled, indices: Sequence[Labelled | None]) -> Labelled:
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


def _part(step: Step, x: Labelled, axis: int, numbers: Tensor) -> Labelled:
    """The elements of one axis with these numbers; without the axis where the numbers have no such axis either."""
    part = _cut(step, x, axis, numbers.flatten().numpy())
    if numbers.ndim == len(x.shape):
        return part
    step.record(part.block(axis).flat)
    return reshaped(step.labels, part, [size for k, size in enumerate(x.shape) if k != axis])


def _cut(step: Step, x: Labelled, axis: int, index: Words) -> Labelled:
    """Some elements of one axis, in the order of `index`."""
    part = taken(x, axis, index)
    block, whole = part.block(axis), x.block(axis)
    source = step.node.args[0]
    if isinstance(source, fx.Node) and source in step.layers and len(whole.axes) == 1:
        step.notes.cuts.setdefault((source, axis), []).append(Cut(step.node, whole.flat, index))
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
