"""Pairs of networks in weight space: every network is read once, and one that is broken spoils its own pairs only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from modeconn_cli.engine.commands.l2.inputs import Network
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import checkpoints, sums, weights
from modeconn_cli.engine.networks.sums import Squares

Pair = tuple[str, str]  # labels
Networks = Mapping[str, Network | InputError]
Measured = dict[Pair, dict[str, Squares] | InputError]


def measure(networks: Networks, pairs: Sequence[Pair], *, allow_nonfinite: bool = False) -> Measured:
    """The sums of every pair, or why there are none."""
    usable: dict[str, Network] = {}
    failed: dict[str, InputError] = {}
    for label, network in networks.items():
        if isinstance(network, InputError):
            failed[label] = network
        else:
            usable[label] = network
    out: Measured = {}
    for labels in alike(usable):
        own = [pair for pair in pairs if set(pair) <= set(labels)]
        while own:
            chosen = [label for label in labels if any(label in pair for pair in own)]
            place = {label: k for k, label in enumerate(chosen)}
            found = sums.among(
                [usable[label].weights for label in chosen], [(place[a], place[b]) for a, b in own]
            )
            broken = {} if allow_nonfinite else _nonfinite(usable, dict(zip(own, found, strict=True)))
            if not broken:
                out |= dict(zip(own, found, strict=True))
                break
            # Values that are no numbers spoil the sums of the others: once more without them.
            failed |= broken
            own = [pair for pair in own if not set(pair) & set(broken)]
    return {pair: out[pair] if pair in out else _reason(pair, usable, failed) for pair in pairs}


def alike(usable: Mapping[str, Network]) -> list[list[str]]:
    """Labels of networks with the same tensors."""
    groups: dict[frozenset[tuple[str, tuple[int, ...]]], list[str]] = {}
    for label, network in usable.items():
        key = frozenset((name, tuple(tensor.shape)) for name, tensor in network.weights.items())
        groups.setdefault(key, []).append(label)
    return list(groups.values())


def _nonfinite(
    usable: Mapping[str, Network], found: Mapping[Pair, Mapping[str, Squares]]
) -> dict[str, InputError]:
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
    error = next((failed[label] for label in pair if label in failed), None)
    if error is not None:
        return error
    first, second = (usable[label] for label in pair)
    try:
        weights.check_alike(first.weights, second.weights, str(first.path), str(second.path))
    except InputError as different:
        return different
    raise AssertionError(f"{pair} was not measured")
