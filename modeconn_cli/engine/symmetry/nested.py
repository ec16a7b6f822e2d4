"""Units that have an order of their own in every block: the entries of a head, head by head.

Words (head, entry) say that entries are permuted alike in all heads. Each head may have its own order of them where no
operation compares the entries of one head with those of another. That is so when

    every element that belongs to an entry belongs to exactly one head, in every tensor of the graph; and

    an operation that reads such elements does the same to each head, apart: it mixes nothing along heads, and what
    it gives for a head is of that head alone; or it mixes all heads and all entries into one sum or one norm.

Heads may be such that cannot be exchanged, as those with slopes of their own (ALiBi), or experts chosen by rank.

For a permutation of the entries that is common to all heads goes through every operation. Where an operation treats
heads apart, that holds for each head by itself, whatever the others do; and a sum, or a norm, over heads and entries
together does not see in which order they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import fx

from modeconn_cli.engine.symmetry.labels import NOTHING, Labels, Mask, Words
from modeconn_cli.engine.symmetry.registry import Mixed
from modeconn_cli.engine.symmetry.tensors import Block, Labelled, directions
from modeconn_cli.engine.symmetry.walk import LabelledGraph, labelled_in

Classes = Words  # the number of a label's class in the place of the label; 0 is none


def within(
    labelled: LabelledGraph, number: Classes, tensors: Mapping[tuple[str, int], Words]
) -> dict[int, int]:
    """Class of units -> class of the blocks that may each have them in another order.

    `number` says the class of each label, `tensors` the expanded words of the axes of the state dict. Blocks are not
    within blocks themselves. Those that cannot be exchanged are given classes of their own in `number`, where they hold
    others.
    """
    found: dict[int, int] = {}
    movable = int(number.max())
    _number_still(labelled.labels, number, tensors)
    beside = {each: others for each, others in _beside(number, tensors).items() if each <= movable}
    values = _Values(labelled, number if any(beside.values()) else np.zeros_like(number))

    def fit(blocks: int) -> bool:
        return blocks <= movable or _fit_for_blocks(labelled.labels, number == blocks, tensors)

    for units in sorted(beside):
        # Blocks of blocks first: whatever is in one of the smaller ones is in one of the larger ones too.
        for blocks in sorted(beside[units], key=lambda each: -len(values.nodes_of.get(each, ()))):
            free = blocks not in found and units not in found.values()
            if free and values.holds(units, blocks) and fit(blocks):
                found[units] = blocks
                break
    number[(number > movable) & ~np.isin(number, list(found.values()))] = 0
    return found


def _number_still(labels: Labels, number: Classes, tensors: Mapping[tuple[str, int], Words]) -> None:
    """Give labels that cannot be exchanged, and stand together in tensors beside others that can, a class."""
    known: dict[bytes, int] = {}
    having = {name for (name, _), words in tensors.items() if number[words].any()}
    for (name, _), words in tensors.items():
        for column in words.T if name in having else ():
            found = np.unique(column)
            if len(found) < 2 or not labels.frozen(found).all() or found.tobytes() in known:
                continue
            if not number[found].any() and found[0] != NOTHING:
                known[found.tobytes()] = number[found] = int(number.max()) + 1


def _fit_for_blocks(labels: Labels, chosen: Mask, tensors: Mapping[tuple[str, int], Words]) -> bool:
    """Whether labels that cannot be exchanged lie on every axis alike, and number the same wherever they are."""
    for words in tensors.values():
        _, counts = np.unique(words[chosen[words]], return_counts=True)
        if len(counts) not in (0, chosen.sum()) or len(set(counts.tolist())) > 1:
            return False
    return labels.stand_apart(np.flatnonzero(chosen))


def _beside(number: Classes, tensors: Mapping[tuple[str, int], Words]) -> dict[int, set[int]]:
    """For each class the others that are in every tensor of the state dict that it is in."""
    of_tensor: dict[str, set[int]] = {}
    for (name, _), words in tensors.items():
        of_tensor.setdefault(name, set()).update(np.unique(number[words]).tolist())
    out: dict[int, set[int]] = {}
    for classes in of_tensor.values():
        for each in classes - {0}:
            others = classes - {0, each}
            out[each] = out[each] & others if each in out else others
    return out


@dataclass(frozen=True, eq=False)
class _Place:
    """A block of axes with the classes of its elements, (n, factors)."""

    block: Block
    classes: Classes

    @cached_property
    def there(self) -> frozenset[int]:
        return frozenset(np.unique(self.classes).tolist())

    def count(self, each: int) -> Words:
        """How many factors of each element are of a class, (n,)."""
        return np.asarray((self.classes == each).sum(axis=1))


class _Values:
    """What the nodes of a graph stand for, by the classes of the units in it."""

    def __init__(self, labelled: LabelledGraph, number: Classes) -> None:
        self._labelled, self._number = labelled, number
        self._known: dict[int, _Place] = {}
        self.nodes_of: dict[int, list[fx.Node]] = {}  # class -> nodes whose values have it
        for node, value in labelled.values.items():
            there: set[int] = set()
            for place in self._all(value):
                there |= place.there
            for each in there:
                self.nodes_of.setdefault(each, []).append(node)

    def holds(self, units: int, blocks: int) -> bool:
        """Whether units may have an order of their own in each block."""
        readers: dict[fx.Node, None] = {}
        for node in self.nodes_of.get(units, ()):
            for x in labelled_in(self._labelled.values[node]):
                if not _in_one(self._of(x), units, blocks):
                    return False
            readers |= dict.fromkeys(node.users)
        return all(self._treats_apart(node, units, blocks) for node in readers if node.op != "output")

    def _treats_apart(self, node: fx.Node, units: int, blocks: int) -> bool:
        """Whether an operation that reads units treats blocks apart, or mixes all of all."""
        mixed = self._labelled.notes.mixed.get(node)
        if not mixed:
            return mixed is not None
        known = {id(each.x) for each in mixed}
        read = [x for source in node.all_input_nodes for x in labelled_in(self._labelled.values.get(source))]
        along = [
            *(self._along(each) for each in mixed),
            *(self._along(Mixed(x, frozenset())) for x in read if id(x) not in known),
        ]
        if any(blocks in gone for gone, _ in along):
            return not any(units in gone | stays and {units, blocks} & stays for gone, stays in along)
        for x in labelled_in(self._labelled.values[node]):
            places = self._of(x)
            if not any(units in place.there for place in places) and not _each_in_one(places, blocks):
                return False
        return True

    def _along(self, mixed: Mixed) -> tuple[set[int], set[int]]:
        """The classes that vary along axes that are mixed, and along others."""
        gone: set[int] = set()
        stays: set[int] = set()
        kept = None if mixed.kept is None else self._labelled.labels.expand(mixed.kept)
        for place in self._of(mixed.x):
            inside = {k for k, axis in enumerate(place.block.axes) if axis in mixed.axes}
            labels = self._labelled.labels.expand(place.block.flat)
            for factor in range(labels.shape[1]):
                classes = set(np.unique(place.classes[:, factor]).tolist())
                along = set(directions(labels[:, factor].reshape(place.block.sizes)))
                apart = kept is not None and bool(np.isin(labels[:, factor], kept).all())
                if along & inside and not apart:
                    gone |= classes
                if along - inside or apart or not along:
                    stays |= classes
        return gone, stays

    def _all(self, value: object) -> Iterable[_Place]:
        for x in labelled_in(value):
            yield from self._of(x)

    def _of(self, x: Labelled) -> list[_Place]:
        out = []
        for block in x.blocks:
            key = id(block)
            if key not in self._known:
                self._known[key] = _Place(block, self._number[self._labelled.labels.expand(block.flat)])
            out.append(self._known[key])
        return out


def _in_one(places: Sequence[_Place], units: int, blocks: int) -> bool:
    """Whether every element that is of a unit is of exactly one block."""
    having = [place for place in places if units in place.there]
    if not having:
        return True
    if having == (around := [place for place in places if blocks in place.there]):
        (place,) = having if len(having) == 1 else (None,)
        return place is not None and bool((place.count(blocks)[place.count(units) > 0] == 1).all())
    return len(around) == 1 and _each_in_one(places, blocks)


def _each_in_one(places: Sequence[_Place], blocks: int) -> bool:
    """Whether every element is of exactly one block."""
    around = [place for place in places if blocks in place.there]
    return len(around) == 1 and bool((around[0].count(blocks) == 1).all())
