"""What `mcx align` has found of each network, and of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from modeconn_cli.engine.networks import distances
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.symmetry import Symmetry
from modeconn_cli.engine.symmetry.files import Orders


@dataclass(frozen=True)
class Apart:
    """How far a network is from another: ‖Δ‖, and ‖Δ‖ relative to the other's norm (None where that is 0).

    Of several others both are the root of the mean square.
    """

    total_l2: float
    relative_total: float | None

    @classmethod
    def of(cls, own: Mapping[str, Tensor], others: Sequence[Mapping[str, Tensor]]) -> Apart:
        found = [distances.l2(other, own) for other in others]
        relative = [each.relative_total for each in found if each.relative_total is not None]
        total = _root_mean_square([each.total_l2 for each in found])
        return cls(total, _root_mean_square(relative) if len(relative) == len(found) else None)


def _root_mean_square(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


@dataclass(frozen=True)
class GroupMoved:
    """A group of units, named as in the permutation's file: how many there are, and how many have another place.

    Units within blocks, such as the entries of heads, are counted in each of these, after the blocks have moved.
    """

    name: str
    layers: list[str]
    units: int
    moved: int


def groups_moved(symmetry: Symmetry, orders: Orders) -> list[GroupMoved]:
    """What an order of each group's units moves."""
    return [
        GroupMoved(
            name,
            list(group.rows_in),
            orders[group].size,
            int((orders[group] != np.arange(group.size)).sum()),
        )
        for name, group in symmetry.ids.items()
    ]


@dataclass(frozen=True, kw_only=True)
class Alignment(Record):
    """One network, aligned to `fixed`, or in one frame with the others (None).

    `objective` is Σ ⟨fixed, permuted⟩ over the tensors in which units move, in one frame the sum over all pairs: of the
    networks as they were, and after each sweep of the attempt that came out best, which began at `start`. By
    activations it is the mean correlation of the units that are paired.
    """

    schema: ClassVar[str] = "mcx.alignment/1"

    moving: str
    fixed: str | None
    output: str
    permutation: str
    before: Apart
    after: Apart
    objective: list[float]
    start: str
    groups: list[GroupMoved]
    max_output_diff_float64: float
    permutation_sha256: str
    checkpoint_sha256: str

    @property
    def share_moved(self) -> float:
        """The share of all units that have another place."""
        return sum(each.moved for each in self.groups) / sum(each.units for each in self.groups)


@dataclass(frozen=True, kw_only=True)
class AlignResult(Record):
    """All networks that were aligned, by label."""

    schema: ClassVar[str] = "mcx.align/1"

    fixed: str | None
    method: str
    seed: int
    restarts: int
    aligned: dict[str, Alignment]

    def fields(self) -> dict[str, Any]:
        return {**super().fields(), "aligned": {k: each.document() for k, each in self.aligned.items()}}
