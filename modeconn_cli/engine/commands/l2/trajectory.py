"""The way of a run through weight space: how far each epoch is from the first, the last and the one before."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from modeconn_cli.engine.commands.l2.chosen import Pair
from modeconn_cli.engine.networks.distances import Distance


@dataclass(frozen=True)
class Waypoint:
    """One epoch; L2 distances, None where a checkpoint could not be used. `length` adds up the steps so far;
    `turn` is the cosine of the angle between the step here and the one that follows.
    """

    epoch: int
    label: str
    from_start: float | None
    from_end: float | None
    step: float | None
    length: float | None
    relative: float | None  # from_start by the norm of the first epoch's weights
    turn: float | None


def pairs(labels: Sequence[str]) -> list[Pair]:
    """The pairs that a trajectory needs, in the order of the epochs."""
    steps = list(itertools.pairwise(labels))
    strides = list(zip(labels, labels[2:], strict=False))
    ends = [(label, labels[-1]) for label in labels[:-1]]
    return list(dict.fromkeys([*((labels[0], label) for label in labels[1:]), *steps, *ends, *strides]))


def waypoints(
    labels: Sequence[str],
    epochs: Sequence[int],
    found: Mapping[Pair, Distance | None],
    broken: Collection[str] = (),
) -> tuple[Waypoint, ...]:
    """One per epoch; `found` has the distances of `pairs`, None for those that could not be measured.

    Nothing is known of `broken` checkpoints.
    """

    def between(a: int, b: int) -> float | None:
        if a == b:
            return None if labels[a] in broken else 0.0
        distance = found[labels[a], labels[b]]
        return None if distance is None else distance.total_l2

    last, length, out = len(labels) - 1, 0.0, []
    whole = True
    for k, (label, epoch) in enumerate(zip(labels, epochs, strict=True)):
        step = between(k - 1, k) if k else None
        whole = whole and (step is not None if k else label not in broken)
        length += step or 0.0
        start = found[labels[0], label] if k else None
        out.append(
            Waypoint(
                epoch=epoch,
                label=label,
                from_start=between(0, k),
                from_end=between(k, last),
                step=step,
                length=length if whole else None,
                relative=between(0, 0) if k == 0 else None if start is None else start.relative_total,
                turn=_cosine(step, between(k, k + 1), between(k - 1, k + 1)) if 0 < k < last else None,
            )
        )
    return tuple(out)


def _cosine(step: float | None, following: float | None, stride: float | None) -> float | None:
    """The cosine of the angle between two steps, by the law of cosines from their lengths and that of both together."""
    if step is None or following is None or stride is None or not step * following > 0:
        return None
    cosine = (stride**2 - step**2 - following**2) / (2 * step * following)
    return max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else None
