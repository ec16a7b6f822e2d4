"""Groups of exchangeable units, found among the labels of a graph.

Two labels are exchangeable when exchanging them maps every axis of every tensor onto itself. That is an
equivalence, so the classes of it are the groups and any permutation within a group is a symmetry. On an axis of
single labels it means: both occur, or neither does. On an axis of words (head, entry) it means: the rest of the
words they occur in, factor by factor, is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from torch import fx

from modeconn_cli.engine.errors import InputError, SettingsError, did_you_mean
from modeconn_cli.engine.networks.graph import Graph
from modeconn_cli.engine.symmetry.labels import NOTHING, Labels, Words, repeated
from modeconn_cli.engine.symmetry.nested import within
from modeconn_cli.engine.symmetry.tensors import Labelled
from modeconn_cli.engine.symmetry.walk import LabelledGraph, label, layer_of

Places = npt.NDArray[np.int64]  # (units, places): element p of unit k along one axis; equal p correspond


@dataclass(frozen=True)
class Move:
    """What a permutation of the group does to one axis of one tensor."""

    tensor: str
    axis: int
    length: int  # of the axis
    places: Places
    # Where units are within blocks: the axis along which blocks lie, and the block that is there. Along the axis of
    # the move itself one for each of a unit's places, along another one for each of its elements.
    across: int = 0
    blocks: Places | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """Units that can be exchanged with each other without changing the function.

    Where the group covers a whole layer, unit k is row k of its weight. Where it covers part of it, or a unit is
    several rows (a head), units are numbered by their first row, and `rows_in` says which they are.

    Units `within` others, such as the entries of heads, can be exchanged in each of these apart from the rest. Then an
    order of them is (blocks, units), or (units,) for one that all blocks share. Blocks are exchanged first: row k is of
    the block that has come to place k.
    """

    rows_in: Mapping[str, Places]  # every module that makes these units, in execution order: (units, rows)
    moves: tuple[Move, ...]  # in the order of the state dict
    within: Group | None = None  # which is within none
    still: bool = False  # blocks that cannot be exchanged, which are in no list of groups

    @property
    def layer(self) -> str:
        """The module path of the first that makes them."""
        return next(iter(self.rows_in))

    @property
    def size(self) -> int:
        """The number of units."""
        return len(self.rows_in[self.layer])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an order of the units."""
        return (self.size,) if self.within is None else (self.within.size, self.size)


@dataclass(frozen=True)
class Symmetry:
    """All groups of a model, in execution order of their first layers."""

    groups: tuple[Group, ...]
    layers: tuple[str, ...]  # every module that makes an axis, in execution order
    fixed: Mapping[str, str]  # layer without a group -> why
    # Which groups lie along which axes of what a node computes, and where along these, flattened: (units, places).
    seen: Callable[[fx.Node], Iterable[tuple[Group, tuple[int, ...], Places]]] = field(
        default=lambda _: (), compare=False
    )

    @cached_property
    def ids(self) -> dict[str, Group]:
        """Every group by its name in files: its first layer, with `#k` where that is the k-th of the layer's groups
        (from 0) and not the one that `group_of` takes, which is the largest.
        """
        out: dict[str, Group] = {}
        for group in self.groups:
            of_layer = [each for each in self.groups if group.layer in each.rows_in]
            largest = max(of_layer, key=lambda each: each.size)
            out[group.layer if group is largest else f"{group.layer}#{of_layer.index(group)}"] = group
        return out


def find(graph: Graph) -> Symmetry:
    """The groups of exchangeable units of a traced model.

    Raises:
        InputError: no unit can be exchanged because of operations that nothing can be proven about; names them.
    """
    labelled = label(graph)
    labels = labelled.labels
    axes = _distinct_axes(labelled)
    for axis in axes:
        twice = repeated(axis)
        if twice.any():
            labels.freeze(axis[twice], "two of its elements would have to move as one")
    tensors = {
        (name, axis): labels.expand(words)
        for name, along in labelled.tensors.items()
        for axis, words in enumerate(along)
    }
    group_number = _classes(labels, axes, tensors.values())
    made = {layer: labels.expand(words) for layer, words in labelled.notes.producers.items()}
    movable = int(group_number.max())
    nests = within(labelled, group_number, tensors)
    unit = np.full(len(group_number), -1)  # label -> number of the unit in its group
    by_number = _groups(group_number, unit, tensors, made)
    for number in [each for each in by_number if each > movable]:
        by_number[number] = replace(by_number[number], still=True)
    for units, blocks in nests.items():
        by_number[units] = _nested(by_number[units], by_number[blocks], tensors, blocks, group_number, unit)
    groups = tuple(group for group in by_number.values() if not group.still)

    def seen(node: fx.Node) -> Iterator[tuple[Group, tuple[int, ...], Places]]:
        value = labelled.values.get(node)
        for block in value.blocks if isinstance(value, Labelled) else ():
            for number, places in _places(group_number, unit, labels.expand(block.flat)):
                if number in by_number:
                    yield by_number[number], block.axes, places

    with_units = _movable(groups)
    fixed = {layer: _why(labels, words) for layer, words in made.items() if layer not in with_units}
    if not groups and labelled.notes.unproven:
        raise InputError(
            f"no units can be exchanged: {labelled.notes.unproven[0]}",
            "a symmetry rule is one short function (engine/symmetry/registry.py)",
        )
    return Symmetry(groups, tuple(made), fixed, seen)


def group_of(symmetry: Symmetry, layer: str) -> Group:
    """The largest group among the units that `layer` writes, with its units numbered by that layer's rows.

    Raises:
        SettingsError: no such layer, or none of its units can be exchanged; says why.
    """
    found = [group for group in symmetry.groups if layer in group.rows_in]
    if not found:
        if layer in symmetry.fixed:
            movable = _movable(symmetry.groups)
            raise SettingsError(
                f"the units of '{layer}' cannot be exchanged: {symmetry.fixed[layer]}",
                f"choose from: {', '.join(sorted(movable))}" if movable else "",
            )
        raise SettingsError(f"no layer '{layer}' that makes units", did_you_mean(layer, symmetry.layers))
    group = max(found, key=lambda each: each.size)  # the first of the largest
    order = np.argsort(group.rows_in[layer][:, 0])
    if np.array_equal(order, np.arange(group.size)):
        return group
    return Group(
        {name: places[order] for name, places in group.rows_in.items()},
        tuple(replace(move, places=move.places[order]) for move in group.moves),
        group.within,
    )


def _movable(groups: Iterable[Group]) -> set[str]:
    """The layers with units that can be exchanged."""
    return {layer for group in groups for layer in group.rows_in}


def _distinct_axes(labelled: LabelledGraph) -> list[Words]:
    """The expanded words of every axis that has a free label, each once."""
    labels = labelled.labels
    found: dict[tuple[int, bytes], Words] = {}
    for words in labelled.notes.axes:
        expanded = labels.expand(words)
        if not labels.frozen(expanded).all():
            found.setdefault((expanded.shape[1], expanded.tobytes()), expanded)
    return list(found.values())


def _classes(labels: Labels, axes: Iterable[Words], tensors: Iterable[Words]) -> Places:
    """Number the classes of exchangeable labels: label -> class, 0 for labels that have no partner."""
    number = np.zeros(labels.count, dtype=np.int64)
    for words in tensors:
        number[words[~labels.frozen(words)]] = 1
    for words in axes:
        for factor in range(words.shape[1]):
            column = words[:, factor]
            rows = np.flatnonzero(number[column] > 0)
            if len(rows):
                members, contexts = _contexts(column[rows], np.delete(words[rows], factor, axis=1))
                pairs = number[members] * (contexts.max() + 1) + contexts
                _, fresh = np.unique(pairs, return_inverse=True)
                number[members] = number.max() + 1 + fresh
    _, number = np.unique(number, return_inverse=True)  # NOTHING keeps class 0 in use
    alone = np.bincount(number) < 2
    return np.where(alone[number], 0, number)


def _contexts(column: Words, rest: Words) -> tuple[Words, Words]:
    """Distinct labels of a column, and a number for each that is equal where the rests of its words are equal."""
    if rest.shape[1] == 0:
        members = np.unique(column)
        return members, np.zeros_like(members)
    order = np.lexsort((*rest.T, column))
    members, starts = np.unique(column[order], return_index=True)
    known: dict[bytes, int] = {}
    contexts = [known.setdefault(part.tobytes(), len(known)) for part in np.split(rest[order], starts[1:])]
    return members, np.array(contexts, dtype=np.int64)


def _groups(
    number: Places, unit: Places, tensors: Mapping[tuple[str, int], Words], made: Mapping[str, Words]
) -> dict[int, Group]:
    """The groups by number, in execution order of their first producers; groups without one come last.

    `unit`, label -> number of the unit in its group, is filled in.
    """
    rows_in: dict[int, dict[str, Places]] = {}
    moves: dict[int, list[Move]] = {}
    for layer, words in made.items():
        for group, places in _gathered(_places(number, unit, words)):
            rows_in.setdefault(group, {}).setdefault(layer, np.sort(places, axis=1))
    for (name, axis), words in tensors.items():
        for group, places in _gathered(_places(number, unit, words)):
            moves.setdefault(group, []).append(Move(name, axis, len(words), places))
            # A group that no layer writes, such as learned tokens that are summed, is named after its tensor.
            rows_in.setdefault(group, {layer_of(name): np.sort(places, axis=1)})
    return {number: Group(rows, tuple(moves[number])) for number, rows in rows_in.items()}


def _nested(
    group: Group,
    blocks: Group,
    tensors: Mapping[tuple[str, int], Words],
    of_blocks: int,
    number: Places,
    unit: Places,
) -> Group:
    """The same units, each block of which has an order of its own; `of_blocks` is the number of the blocks' class."""
    moves = []
    for move in group.moves:
        axes = {axis: words for (name, axis), words in tensors.items() if name == move.tensor}
        across = next(
            axis
            for axis in (move.axis, *axes)
            if (number[axes[axis]] == of_blocks).any(axis=1)[move.places if axis == move.axis else ...].all()
        )
        words = axes[across][move.places[0]] if across == move.axis else axes[across]
        found = np.where(number[words] == of_blocks, unit[words], -1).max(axis=1)
        moves.append(replace(move, across=across, blocks=found))
    return Group(group.rows_in, tuple(moves), blocks)


def _places(number: Places, unit: Places, words: Words) -> Iterator[tuple[int, Places]]:
    """Where the units of each class are along an axis, factor by factor: (class, (units, places)).

    Units get their numbers, in the order of their first elements, on the first axis that a class is met on.
    """
    for factor in range(words.shape[1]):
        column = words[:, factor]
        classes, first = np.unique(number[column], return_index=True)
        for group in classes[np.argsort(first)]:
            if group == 0:
                continue
            rows = np.flatnonzero(number[column] == group)
            labels, starts = np.unique(column[rows], return_index=True)
            if unit[labels[0]] < 0:
                unit[labels[np.argsort(starts)]] = np.arange(len(labels))
            if len(rows) % len(labels):
                continue  # blocks that cannot be exchanged, of which this axis has more of one than of another
            rest = np.delete(words[rows], factor, axis=1)
            order = np.lexsort((*rest.T, unit[column[rows]]))  # by unit, then by the rest of the word
            yield int(group), rows[order].reshape(len(labels), -1)


def _gathered(found: Iterable[tuple[int, Places]]) -> Iterator[tuple[int, Places]]:
    """One entry for a class that parts of an axis have as different factors (queries beside values under one weight).

    Where an element is of one class twice (an outer product of units with themselves) the entries follow each other.
    """
    out: dict[int, list[Places]] = {}
    for group, places in found:
        known = out.setdefault(group, [])
        if known and not np.isin(places, known[-1]).any():
            known[-1] = np.concatenate([known[-1], places], axis=1)
        else:
            known.append(places)
    return ((group, places) for group, each in out.items() for places in each)


def _why(labels: Labels, words: Words) -> str:
    """Why no two units of an axis can be exchanged."""
    if len(words) == 1:
        return "it has one unit"
    reasons = [labels.reason(label) for label in words[0].tolist() if label != NOTHING]
    return next((reason for reason in reasons if reason), "no two of its units are used alike")
