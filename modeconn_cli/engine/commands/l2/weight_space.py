"""Sums over the weights of pairs of networks: one that is broken spoils its own pairs only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from modeconn_cli.engine.commands.l2.chosen import Pair
from modeconn_cli.engine.commands.l2.network import Network
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import checkpoints, sums, weights
from modeconn_cli.engine.networks.sums import Squares

Networks = Mapping[str, Network | InputError]  # by label: a network, or why there is none
Sums = dict[str, Squares]  # by tensor


def measure(
    networks: Networks, pairs: Sequence[Pair], *, allow_nonfinite: bool = False
) -> tuple[dict[Pair, Sums], dict[Pair, InputError]]:
    """The sums of pairs, and of the other pairs why there are none."""
    usable = {label: network for label, network in networks.items() if isinstance(network, Network)}
    failed = {label: error for label, error in networks.items() if isinstance(error, InputError)}
    found: dict[Pair, Sums] = {}
    for labels in alike(usable):
        group = set(labels)
        own = [pair for pair in pairs if group.issuperset(pair)]
        of_group = _among(usable, own)
        broken = {} if allow_nonfinite else _nonfinite(usable, of_group)
        if broken:  # values that are no numbers have spoilt the sums of the others: once more without them
            failed |= broken
            of_group = _among(usable, [pair for pair in own if not set(pair) & set(broken)])
        found |= of_group
    return found, {pair: _reason(pair, usable, failed) for pair in pairs if pair not in found}


@dataclass(frozen=True)
class LeftOut:
    """What of a pair is not compared: the names that only one has, and those of two shapes, name -> (first, second)."""

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def count(self) -> int:
        return len(self.only_first) + len(self.only_second) + len(self.shapes)


def in_common(
    networks: Networks, pairs: Sequence[Pair], *, allow_nonfinite: bool = False
) -> tuple[dict[Pair, Sums], dict[Pair, InputError], dict[Pair, LeftOut]]:
    """The sums of pairs over what both have, why other pairs have none, and what was left out of each."""
    found: dict[Pair, Sums] = {}
    failed: dict[Pair, InputError] = {}
    left: dict[Pair, LeftOut] = {}
    for pair in pairs:
        both, missed = _reduced(*(networks[label] for label in pair))
        sums_, errors = measure(dict(zip(pair, both, strict=True)), [pair], allow_nonfinite=allow_nonfinite)
        found.update(sums_)
        failed.update(errors)
        if missed is not None:
            left[pair] = missed
    return found, failed, left


def _reduced(
    first: Network | InputError, second: Network | InputError
) -> tuple[tuple[Network | InputError, Network | InputError], LeftOut | None]:
    """Two networks with the tensors alone that both have; both as InputError where there are none."""
    if isinstance(first, InputError) or isinstance(second, InputError):
        return (first, second), None
    a, b = first.weights, second.weights
    left = LeftOut(
        tuple(name for name in a if name not in b),
        tuple(name for name in b if name not in a),
        {n: (tuple(a[n].shape), tuple(b[n].shape)) for n in a if n in b and a[n].shape != b[n].shape},
    )
    names = [name for name in a if name in b and name not in left.shapes]
    if not names:
        nothing = InputError(f"'{first.path}' and '{second.path}' have no tensor of one name and shape")
        return (nothing, nothing), left
    one, other = (replace(each, weights={n: each.weights[n] for n in names}) for each in (first, second))
    return (one, other), left


def alike(usable: Mapping[str, Network]) -> list[list[str]]:
    """Labels of networks with the same tensors."""
    groups: dict[frozenset[tuple[object, ...]], list[str]] = {}
    for label, network in usable.items():
        key = frozenset(
            (name, t.shape, t.is_floating_point(), t.is_complex()) for name, t in network.weights.items()
        )
        groups.setdefault(key, []).append(label)
    return list(groups.values())


def _among(usable: Mapping[str, Network], pairs: Sequence[Pair]) -> dict[Pair, Sums]:
    """The sums of pairs of networks that are alike."""
    if not pairs:
        return {}
    wanted = {label for pair in pairs for label in pair}
    chosen = [label for label in usable if label in wanted]
    number = {label: k for k, label in enumerate(chosen)}
    numbers = [(number[a], number[b]) for a, b in pairs]
    found = sums.among([usable[label].weights for label in chosen], numbers)
    return dict(zip(pairs, found, strict=True))


def _nonfinite(usable: Mapping[str, Network], found: Mapping[Pair, Sums]) -> dict[str, InputError]:
    """Networks that hold NaN or infinity; a sum may also be infinite because the numbers are too large."""
    suspects = {
        label
        for pair, tensors in found.items()
        for label, side in zip(pair, ("first", "second"), strict=True)
        if not all(math.isfinite(getattr(squares, side)) for squares in tensors.values())
    }
    out = {}
    for label in suspects:
        try:
            checkpoints.check_finite(usable[label].weights, usable[label].path)
        except InputError as error:
            out[label] = error
    return out


def _reason(pair: Pair, usable: Mapping[str, Network], failed: Mapping[str, InputError]) -> InputError:
    for label in pair:
        if label in failed:
            return failed[label]
    first, second = (usable[label] for label in pair)
    try:
        weights.check_alike(first.weights, second.weights, str(first.path), str(second.path))
    except InputError as different:
        both = [
            n
            for n in first.weights
            if n in second.weights and first.weights[n].shape == second.weights[n].shape
        ]
        hint = f"--common compares the {len(both)} tensors that both have by name and shape" if both else ""
        return InputError(different.message, hint)
    raise AssertionError(f"{pair} was not measured")
