"""The table of scores that a sample's logits and label give: `csl score` writes each of them for every epoch.

A new one is a function of at most 15 lines and a row of `SCORES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modeconn_cli.engine.datasets import Batch
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.networks.forward import forward
from modeconn_cli.engine.training.evaluation import among


@dataclass(frozen=True)
class SampleScore:
    """`function` maps logits [B, C] and labels [B] to one value per sample, [B]; the logits come in float64.

    `name` begins the names of its files, and no name may begin with `loss`, which those of csl do. `large` says which
    samples have large values, hard or easy ones, or either where the label does not matter; `within` says what values
    there are. The tests hold every row to both.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    paper: str
    large: Literal["hard", "easy", "either"]
    within: tuple[float, float]

    def __post_init__(self) -> None:
        if self.name.startswith("loss") and self.name != "loss":
            raise ValueError(f"'{self.name}': the names of a score's files would be read as those of losses")


SCORES = (
    SampleScore(
        "loss", cross_entropy, paper="Ravikumar et al. 2025, eq. 1", large="hard", within=(0.0, math.inf)
    ),
)


@torch.no_grad()
def of_batch(
    model: nn.Module, batch: Batch, classes: Tensor | None, names: Collection[str]
) -> dict[str, Tensor]:
    """The named scores of a batch, [B] each, in one forward pass; none is needed for no score.

    With `classes`, ascending, they are over the logits of these alone; every label must be among them.
    """
    wanted = [score for score in SCORES if score.name in names]
    if not wanted:
        return {}
    logits, labels = among(forward(model, batch.images), batch.labels, classes)
    found = {score.name: score.function(logits.double(), labels).double() for score in wanted}
    for name, values in found.items():
        if values.shape != labels.shape:
            raise ValueError(f"the score '{name}' is {tuple(values.shape)} for {len(labels)} samples")
    return found
