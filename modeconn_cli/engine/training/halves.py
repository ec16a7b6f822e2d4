"""Two phases of a training: one random half of the samples first, the other one after it.

Protocol: Maini et al. 2022, arXiv:2210.15031; of two runs, the second goes the other way round, so that every sample is
of the first half once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from modeconn_cli.engine import keyed


@dataclass(frozen=True)
class Halves:
    """`epochs` on a half that `seed` draws by sample id, then as many on the other; `swapped`: the other one first."""

    seed: int
    swapped: bool
    epochs: int
    count = 2

    def at(self, epoch: int) -> int:
        """The phase, 0 or 1, of the epoch in progress after `epoch` completed ones."""
        return min(epoch // self.epochs, 1)

    def first(self, ids: Tensor) -> Tensor:
        """Which samples are of the half that is trained on first, bool [N] for ids [N]."""
        drawn = keyed.uniform(self.seed, "two phases", ids)[:, 0] < 0.5
        return ~drawn if self.swapped else drawn

    def members(self, ids: Tensor, phase: int) -> Tensor:
        """Which samples a phase goes over, bool [N]."""
        first = self.first(ids)
        return first if phase == 0 else ~first

    def entry(self) -> dict[str, Any]:
        """What a checkpoint says of them."""
        return asdict(self)


def said(entry: object) -> Halves | None:
    """What a checkpoint or a summary has said of them; None where it says nothing that fits."""
    if not isinstance(entry, Mapping):
        return None
    seed, swapped, epochs = (entry.get(name) for name in ("seed", "swapped", "epochs"))
    fits = type(seed) is int and type(swapped) is bool and type(epochs) is int and epochs > 0
    return Halves(seed, swapped, epochs) if fits else None  # type: ignore[arg-type] # just looked at
