"""Label noise: a share of the training file's labels, each flipped to another class.

Whether a label is flipped, and to what, depends on the seed and the sample's id alone, so that every command that
reads the run's checkpoints finds the labels it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modeconn_cli.engine import keyed
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.shared import DataSettings


@dataclass(frozen=True)
class Flips:
    """Labels of the training file, int64 [N] each, beside its ids."""

    share: float
    seed: int
    ids: Tensor
    clean: Tensor
    trained: Tensor

    @property
    def flipped(self) -> Tensor:
        """bool [N]."""
        return self.clean != self.trained

    def table(self) -> str:
        """CSV, a line per sample of the training file."""
        columns = (self.ids, self.clean, self.trained, self.flipped.long())
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return "".join(["sample_id,clean,trained,flipped\n", *(f"{i},{a},{b},{c}\n" for i, a, b, c in rows)])


def flips_of(settings: DataSettings, labels: Tensor, ids: Tensor, num_classes: int) -> Flips | None:
    """The flips that the settings ask for; None without noise."""
    share = settings.label_noise or 0.0
    if share == 0:
        return None
    if num_classes < 2:
        raise SettingsError("--label-noise needs at least two classes")
    seed = settings.label_seed if settings.label_seed is not None else int(getattr(settings, "seed", 0))
    return Flips(share, seed, ids, labels, flip(labels, ids, num_classes, share, seed))


def flip(labels: Tensor, ids: Tensor, num_classes: int, share: float, seed: int) -> Tensor:
    """Each label [N] is replaced with probability `share` by one of the other classes, all equally likely."""
    chosen = keyed.uniform(seed, "label noise", ids)[:, 0] < share
    step = 1 + keyed.integers(seed, "label noise class", ids, num_classes - 1)
    return torch.where(chosen, (labels + step) % num_classes, labels)
