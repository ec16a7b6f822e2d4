"""Labels of axis elements and the equations between them.

Every element of every axis has a word: a short tuple of labels. Elements with equal words are permuted alike.
Most words are one label (channel 7 of a convolution). A flattened image has words (channel, row, column): a
product. What an operation demands is an equation between words. Equations are solved as they come:

    one label = one label         both become one (union-find)
    one label = a frozen label    the label is frozen; both stay, and remain two
    one label = a longer word     the label is bound: it stands for the word from now on
    two words of equal length     label by label
    anything else                 all labels involved are frozen

Freezing is always sound: a frozen label stays where it is. Too strict an equation costs a symmetry, never
correctness.

Two frozen labels in equal places need not become one, and must not where an order meets another one: rotary positions
add the entries (x, y) of a head to (−y, x), and x is not y. What stands in their place is a demand on the equation as
a whole: which label of one side stands for which of the other is one to one. Then words that hold a free label beside
them are still permuted alike, since the one word is the other with its frozen labels renamed.

Shapes: words of n elements with f factors are an int64 array (n, f); shorter words are filled with NOTHING.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NOTHING = 0  # the label that fills short words

DISAGREE = "it is a different product in two places"


class Unproven(Exception):
    """An operation's arguments fit no equation; the walk then freezes what the operation reads."""


class Labels:
    """Labels 1, 2, … with their equations."""

    def __init__(self) -> None:
        self.count = 1  # one more than the largest label
        size = 1 << 12
        self._parent: Words = np.arange(size)
        self._frozen: Mask = np.zeros(size, dtype=bool)
        self._reason: Words = np.zeros(size, dtype=np.int64)
        # A bound label stands for _letters[_start : _start + _length]; _length is 0 for other labels.
        self._start: Words = np.zeros(size, dtype=np.int64)
        self._length: Words = np.zeros(size, dtype=np.int64)
        self._letters: Words = np.zeros(0, dtype=np.int64)
        self._reasons: dict[str, int] = {"": 0}
        self._renamed: list[
            tuple[Words, Words]
        ] = []  # labels of both sides of equations that rename frozen ones
        self._two: list[tuple[Words, Words]] = []  # frozen labels that stand in equal places of an equation
        self._frozen[NOTHING] = True

    def fresh(self, size: int) -> Words:
        """New free labels for an axis, (size, 1)."""
        first, self.count = self.count, self.count + size
        while self.count > len(self._parent):
            self._parent = np.append(self._parent, np.arange(len(self._parent), 2 * len(self._parent)))
            for name in ("_frozen", "_reason", "_start", "_length"):
                old = getattr(self, name)
                setattr(self, name, np.append(old, np.zeros_like(old)))
        return np.arange(first, first + size)[:, None]

    def fixed(self, size: int, reason: str) -> Words:
        """New frozen labels for an axis whose order matters, (size, 1)."""
        words = self.fresh(size)
        self.freeze(words, reason)
        return words

    def freeze(self, words: Words, reason: str) -> None:
        """Let no element with any of these words move. A label keeps the first reason given."""
        labels = self.expand(words)
        new = labels[~self._frozen[labels]]
        self._frozen[new] = True
        self._reason[new] = self._reasons.setdefault(reason, len(self._reasons))

    def frozen(self, words: Words) -> Mask:
        """Which labels of expanded words are frozen, (n, f) -> (n, f)."""
        return self._frozen[words]

    def reason(self, label: int) -> str:
        """Why a label of an expanded word is frozen; empty where it is not."""
        return list(self._reasons)[self._reason[label]] if self._frozen[label] else ""

    def expand(self, words: Words) -> Words:
        """Words in today's labels, (n, f) -> (n, g): bound labels replaced, NOTHING at the end of rows only."""
        roots = self._roots(words)
        while (self._length[roots] > 0).any() or _gaps(roots):
            rows, factors = roots.shape
            cells = roots.reshape(-1)
            widths = np.where(self._length[cells] > 0, self._length[cells], cells != NOTHING)
            cell = np.repeat(np.arange(len(cells)), widths)
            inside = np.arange(len(cell)) - np.repeat(np.cumsum(widths) - widths, widths)
            letters = cells[cell]
            bound = self._length[letters] > 0
            letters[bound] = self._letters[self._start[letters[bound]] + inside[bound]]
            row = cell // factors
            lengths = widths.reshape(rows, factors).sum(axis=1)
            place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            wider = np.full((rows, max(1, lengths.max())), NOTHING)
            wider[row, place] = letters
            roots = self._roots(wider)
        return roots

    def equate(self, left: Words, right: Words) -> None:
        """Demand that elements k of both axes are permuted alike, for every k: (n, f), (n, g)."""
        if len(left) != len(right):
            raise Unproven(f"axes of {len(left)} and {len(right)} elements cannot be one")
        if left is right:
            return
        sides, renamed = (left, right), False
        left, right = self.expand(left), self.expand(right)
        while len(left):
            lengths, others = _lengths(left), _lengths(right)
            same = lengths == others
            if same.any():
                width = max(1, lengths[same].max())
                renamed |= self._alike(left[same, :width], right[same, :width])
                left, right = self.expand(left[~same]), self.expand(right[~same])
                continue
            width = max(left.shape[1], right.shape[1])
            left, right = _widened(left, width), _widened(right, width)
            longer = (lengths > others)[:, None]
            left, right = self._bind(np.where(longer, right, left), np.where(longer, left, right))
        if renamed:
            self._rename(*(self.expand(side) for side in sides))

    def stand_apart(self, labels: Words) -> bool:
        """Whether no two of some frozen labels have been in equal places: wherever they are they number the same."""
        chosen = np.zeros(self.count, dtype=bool)
        chosen[labels] = True
        chosen[NOTHING] = False
        for pair in self._two:
            left, right = (self._roots(side) for side in pair)
            if (chosen[left] & chosen[right] & (left != right)).any():
                return False
        return True

    def settle(self) -> None:
        """To be called when all equations are made: what an equation renames must still be renamed one to one.

        Frozen labels may have become one since. Where they did on one side only, all that moves beside them is frozen.
        """
        for left, right in self._renamed:
            sides = self.expand(left[:, None]), self.expand(right[:, None])
            pairs = np.unique(np.stack([side.ravel() for side in sides], axis=1), axis=0)
            if not _one_to_one(pairs):
                self.freeze(pairs, DISAGREE)

    def _roots(self, words: Words) -> Words:
        known = roots = self._parent[words]
        while not np.array_equal(above := self._parent[roots], roots):
            roots = above
        if roots is not known:
            self._parent[words] = roots
        return roots

    def _alike(self, left: Words, right: Words) -> bool:
        """Equate words of unbound labels, (n, f) and (n, f); two frozen labels remain two.

        Returns whether there are such beside labels that are free.
        """
        while True:
            left, right = self._roots(left), self._roots(right)
            still, others = self._frozen[left], self._frozen[right]
            one = still != others
            if one.any():
                free, frozen = np.where(still, right, left)[one], np.where(still, left, right)[one]
                self._reason[free], self._frozen[free] = self._reason[frozen], True
                continue
            differ = (left != right) & ~still
            if not differ.any():
                self._two.append((left[left != right], right[left != right]))
                return bool(((left != right).any(axis=1) & ~still.all(axis=1)).any())
            self._unite(left[differ], right[differ])

    def _rename(self, left: Words, right: Words) -> None:
        """See to it that frozen labels in equal places of words that move are renamed one to one, or are one."""
        width = max(left.shape[1], right.shape[1])
        left, right = _widened(left, width), _widened(right, width)
        moves = ~self._frozen[left].all(axis=1)
        left, right = left[moves], right[moves]
        if np.array_equal(left, right):
            return
        pairs = np.unique(np.stack([left.ravel(), right.ravel()], axis=1), axis=0)
        if _one_to_one(pairs):
            self._renamed.append((pairs[:, 0], pairs[:, 1]))
        else:
            self._unite(pairs[:, 0], pairs[:, 1])

    def _unite(self, left: Words, right: Words) -> None:
        """Unite unbound roots pairwise, of which both are free or both frozen, (n,) and (n,)."""
        while (differ := left != right).any():
            # Larger roots hang below smaller ones, so no cycle can close; of pairs that share a root the last
            # one wins, and the next round sees the others again.
            low = np.minimum(left[differ], right[differ])
            self._parent[np.maximum(left[differ], right[differ])] = low
            left, right = self._roots(left), self._roots(right)

    def _bind(self, short: Words, long: Words) -> tuple[Words, Words]:
        """Bind the labels of one-label rows to longer words; returns the rows that remain to be equated."""
        label = short[:, 0]
        fit = (_lengths(short) == 1) & ~self._frozen[label] & ~np.isin(label, long)
        if not fit.all():
            frozen = label[~fit & self._frozen[label] & (label != NOTHING)]
            reason = self.reason(int(frozen[0])) if len(frozen) else DISAGREE
            self.freeze(np.concatenate([short[~fit], long[~fit]]), reason)
            self._two.append((np.repeat(label[~fit], long.shape[1]), long[~fit].reshape(-1)))
        short, long = short[fit], long[fit]
        labels, first = np.unique(short[:, 0], return_index=True)
        lengths = _lengths(long[first])
        self._start[labels] = len(self._letters) + np.cumsum(lengths) - lengths
        self._length[labels] = lengths
        self._letters = np.append(self._letters, long[first][long[first] != NOTHING])
        rest = np.ones(len(short), dtype=bool)
        rest[first] = False
        return self.expand(short[rest]), self.expand(long[rest])


def product(*axes: Words) -> Words:
    """Words of flattened axes, the last one fastest: (n, f), (m, g), … -> (n·m·…, f+g+…).

    Axes of one element are left out: such an element cannot move.
    """
    long = [axis for axis in axes if len(axis) > 1] or [axes[0]]
    out = long[0]
    for axis in long[1:]:
        out = np.concatenate([np.repeat(out, len(axis), axis=0), np.tile(axis, (len(out), 1))], axis=1)
    return out


def marked(words: Words, mark: Words) -> Words:
    """Words with the label of the one-element axis `mark` in front: (n, f) -> (n, 1+f)."""
    return np.concatenate([np.broadcast_to(mark, (len(words), 1)), words], axis=1)


def joined(parts: Sequence[Words]) -> Words:
    """Words of concatenated axes: (n, f), (m, g) -> (n+m, max(f, g))."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([_widened(part, width) for part in parts])


def repeated(words: Words) -> Mask:
    """Which expanded words occur more than once in their axis: (n, f) -> (n,)."""
    keys = words[:, 0]
    for column in words.T[1:]:  # several times as fast as unique rows
        _, keys = np.unique(keys, return_inverse=True)
        keys = keys * (column.max(initial=0) + 1) + column
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse] > 1)


def _one_to_one(pairs: Words) -> bool:
    """Whether distinct pairs of labels, (n, 2), rename every label of one side to one of the other."""
    return all(len(np.unique(pairs[:, side])) == len(pairs) for side in (0, 1))


def _widened(words: Words, width: int) -> Words:
    return np.pad(words, ((0, 0), (0, width - words.shape[1])), constant_values=NOTHING)


def _gaps(words: Words) -> bool:
    """Whether some word has NOTHING before its end."""
    return bool(((words[:, :-1] == NOTHING) & (words[:, 1:] != NOTHING)).any())


def _lengths(words: Words) -> Words:
    """The number of labels in each word, (n, f) -> (n,)."""
    return np.asarray((words != NOTHING).sum(axis=1))
