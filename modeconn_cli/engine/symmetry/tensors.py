"""The words of one tensor, axis by axis, and what reshaping does to them.

A tensor's axes are partitioned into blocks. Most blocks are one axis with its words. Splitting an axis (768 into
12 heads of 64) leaves one block over both new axes, because the units need not move as (head, entry) pairs: who
needs them apart asks for it (`apart`), who flattens them again gets the old axis back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from modeconn_cli.engine.symmetry.labels import Labels, Unproven, Words, product

ALONE = "it is the only element of an axis"


@dataclass(frozen=True, eq=False)
class Block:
    """Axes that are labelled together: `words` has one dimension per axis and the factors last."""

    axes: tuple[int, ...]  # ascending
    words: Words

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.words.shape[:-1]

    @property
    def flat(self) -> Words:
        """The words in row-major order, (elements, factors)."""
        return self.words.reshape(-1, self.words.shape[-1])


@dataclass(frozen=True, eq=False)
class Labelled:
    """A tensor by the words of its axes: every axis is in exactly one block."""

    blocks: tuple[Block, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        sizes = {
            axis: size for block in self.blocks for axis, size in zip(block.axes, block.sizes, strict=True)
        }
        return tuple(sizes[axis] for axis in range(len(sizes)))

    def block(self, axis: int) -> Block:
        """The block that `axis` is in."""
        return next(block for block in self.blocks if axis in block.axes)


def from_axes(axes: Iterable[Words]) -> Labelled:
    """A tensor whose axes are labelled one by one."""
    return Labelled(tuple(Block((axis,), words) for axis, words in enumerate(axes)))


def apart(labels: Labels, x: Labelled, axes: Iterable[int]) -> Labelled:
    """Put each of `axes` into a block of its own.

    A factor that varies along several axes of a block is made a product of one new label per axis and distinct
    slice. That is the demand that its elements move as a grid, the same way in every row: heads as blocks, the
    entries of a head alike in all heads.
    """
    wanted = set(axes)
    blocks: list[Block] = []
    for block in x.blocks:
        if len(block.axes) == 1 or not wanted & set(block.axes):
            blocks.append(block)
        else:
            blocks += _separate(labels, block)
    return Labelled(tuple(blocks))


def split(labels: Labels, x: Labelled) -> list[Words]:
    """The words of every axis, each on its own: one (size, factors) array per axis."""
    x = apart(labels, x, range(len(x.shape)))
    return [x.block(axis).words for axis in range(len(x.shape))]


def permuted(x: Labelled, order: Sequence[int]) -> Labelled:
    """Axis k of the result is axis order[k] of `x`."""
    place = {old: new for new, old in enumerate(order)}
    blocks = []
    for block in x.blocks:
        axes = [place[axis] for axis in block.axes]
        inside = sorted(range(len(axes)), key=axes.__getitem__)
        blocks.append(Block(tuple(sorted(axes)), block.words.transpose(*inside, len(axes))))
    return Labelled(tuple(blocks))


def taken(x: Labelled, axis: int, index: Words) -> Labelled:
    """Elements `index` of one axis, in that order."""
    block = x.block(axis)
    return replaced(x, axis, np.take(block.words, index, axis=block.axes.index(axis)))


def replaced(x: Labelled, axis: int, words: Words) -> Labelled:
    """Put other words into the block that `axis` is in."""
    return Labelled(tuple(Block(block.axes, words) if axis in block.axes else block for block in x.blocks))


def reshaped(labels: Labels, x: Labelled, shape: Sequence[int]) -> Labelled:
    """Give the elements, in row-major order, another shape."""
    for start, stop, sizes in reversed(_segments(x.shape, shape)):
        if not stop - start == len(sizes) == 1:
            x = _reshape_segment(labels, x, start, stop, sizes)
    return x


def without_constants(words: Words) -> Words:
    """Words without the factors that are equal in all of them: (…, f) -> (…, g), g at least 1."""
    varies = [factor for factor in range(words.shape[-1]) if directions(words[..., factor])]
    return words[..., varies or [0]]


def directions(column: Words) -> tuple[int, ...]:
    """The axes along which one factor is not constant."""
    return tuple(k for k in range(column.ndim) if (column != column.take([0], axis=k)).any())


def _corner(words: Words, axes: Collection[int]) -> Words:
    """The elements at 0 along all axes but `axes`, which are kept."""
    return words[tuple(slice(None) if k in axes else 0 for k in range(words.ndim))]


def _separate(labels: Labels, block: Block) -> list[Block]:
    """One block per axis of a block of several."""
    flat = labels.expand(block.flat)
    if labels.frozen(flat).all():
        reason = labels.reason(int(flat[0, 0]))
        return [
            Block((axis,), labels.fixed(size, reason))
            for axis, size in zip(block.axes, block.sizes, strict=True)
        ]
    factors: list[list[Words]] = [[] for _ in block.axes]
    for column in flat.reshape(*block.sizes, -1).transpose(-1, *range(len(block.axes))):
        along = directions(column)
        column = _corner(column, along)
        if len(along) == 1:
            factors[along[0]].append(column[:, None])
            continue
        grid = []
        for k, axis in enumerate(along):
            slices = np.moveaxis(column, k, 0).reshape(column.shape[k], -1)
            _, which = np.unique(slices, axis=0, return_inverse=True)
            grid.append(labels.fresh(int(which.max()) + 1)[which.reshape(-1)])
            factors[axis].append(grid[-1])
        if grid:
            labels.equate(column.reshape(-1, 1), product(*grid))
    return [
        # Without a factor that varies along it, nothing tells the elements of an axis apart, and they stay.
        Block((axis,), np.concatenate(parts, axis=1) if parts else labels.fixed(size, ALONE))
        for axis, size, parts in zip(block.axes, block.sizes, factors, strict=True)
    ]


def _segments(old: Sequence[int], new: Sequence[int]) -> list[tuple[int, int, tuple[int, ...]]]:
    """The shortest runs of axes with equal products: (first old axis, last + 1, sizes in the new shape)."""
    out = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_old, first_new = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while (left := prod(old[first_old:i])) != (right := prod(new[first_new:j])):
            if left < right:
                i += 1
            else:
                j += 1
            if i > len(old) or j > len(new):
                raise Unproven(f"{tuple(old)} cannot be reshaped to {tuple(new)}")
        out.append((first_old, i, tuple(new[first_new:j])))
    return out


def _reshape_segment(labels: Labels, x: Labelled, start: int, stop: int, sizes: tuple[int, ...]) -> Labelled:
    """Replace axes start…stop-1 by axes of `sizes`, which have as many elements."""
    shift = len(sizes) - (stop - start)
    touched = [block for block in x.blocks if any(start <= axis < stop for axis in block.axes)]
    rest = [
        Block(tuple(axis + shift * (axis >= stop) for axis in block.axes), block.words)
        for block in x.blocks
        if block not in touched
    ]
    if not touched:
        return Labelled((*rest, *(Block((start + k,), labels.fixed(1, ALONE)) for k in range(len(sizes)))))
    axes, words = _merged(touched)
    first = sum(axis < start for axis in axes)
    last = first + stop - start
    flat = labels.expand(words.reshape(-1, words.shape[-1]))
    if labels.frozen(flat).all():
        # One frozen label per element says as much as a product of frozen ones, and is faster.
        flat = labels.fixed(len(flat), labels.reason(int(flat[0, 0])))
    words = flat.reshape(*words.shape[:first], *sizes, *words.shape[last:-1], -1)
    places = (*axes[:first], *range(start, start + len(sizes)), *(axis + shift for axis in axes[last:]))
    return Labelled((*rest, *_independent(labels, places, words)))


def _merged(blocks: Sequence[Block]) -> tuple[tuple[int, ...], Words]:
    """One block over the axes of several: the factors of all of them side by side."""
    size_of = {axis: size for block in blocks for axis, size in zip(block.axes, block.sizes, strict=True)}
    axes = tuple(sorted(size_of))
    full = tuple(size_of[axis] for axis in axes)
    columns = []
    for block in sorted(blocks, key=lambda block: block.axes):
        spread = np.expand_dims(block.words, [k for k, axis in enumerate(axes) if axis not in block.axes])
        columns.append(np.broadcast_to(spread, (*full, spread.shape[-1])))
    return axes, np.concatenate(columns, axis=-1)


def _independent(labels: Labels, axes: tuple[int, ...], words: Words) -> list[Block]:
    """Blocks as small as the factors allow: only a factor that varies along two axes ties them together."""
    varies = [set(directions(words[..., factor])) for factor in range(words.shape[-1])]
    parts: list[set[int]] = [{k} for k in range(len(axes))]
    for places in varies:
        tied = [part for part in parts if part & places]
        if tied:
            parts = [part for part in parts if part not in tied] + [set.union(*tied)]
    blocks = []
    for part in sorted(parts, key=min):
        keep = [factor for factor, places in enumerate(varies) if places & part]
        still = not keep  # one axis, whose elements nothing tells apart
        own = (
            labels.fixed(words.shape[min(part)], ALONE)
            if still
            else _corner(words[..., keep], {*part, len(axes)})
        )
        blocks.append(Block(tuple(axes[k] for k in sorted(part)), own))
    return blocks
