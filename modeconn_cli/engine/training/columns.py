"""The columns of an epoch: what a sample's logits and label give, of which scores over epochs are folds.

z are the logits, p = softmax(z), y the label. `csl score` writes them from the logits of its own forward pass, in eval
mode and un-augmented; the recorder writes them of the logits that a training passes to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modeconn_cli.engine.training.evaluation import among

REAL = (-math.inf, math.inf)


@dataclass(frozen=True)
class Column:
    """`function` maps logits z and probabilities p, float64 [B, C], and labels y, [B, 1], to a value per sample, [B].

    `large` says which samples have large values, hard or easy ones, or either; `within` says what values there are.
    """

    name: str
    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    large: Literal["hard", "easy", "either"]
    within: tuple[float, float]


def label_logit(z: Tensor, p: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
    """z_y."""
    return z.gather(1, y)[:, 0]


def other_logit(z: Tensor, p: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
    """max_{j≠y} z_j; −∞ where there is no other class."""
    return z.scatter(1, y, -torch.inf).amax(1)


def label_prob(z: Tensor, p: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
    """p_y."""
    return p.gather(1, y)[:, 0]


def correct(z: Tensor, p: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
    """1 where the largest logit is the label's, 0 elsewhere; the first of equal ones, as accuracies count."""
    hits = (z.argmax(1) == y[:, 0]).to(z.dtype)
    return hits.masked_fill(z.isnan().any(1), torch.nan)


def entropy(z: Tensor, p: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
    """−Σ p log p, in nats."""
    summands: Tensor = torch.special.entr(p)
    return summands.sum(1)


def el2n(z: Tensor, p: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
    """‖p − onehot(y)‖₂; 1 − p_y is the sum of the others, which keeps its digits however well the sample is fitted."""
    others = p.scatter(1, y, 0.0)
    return (others.square().sum(1) + others.sum(1).square()).sqrt()


COLUMNS = (
    Column("label_logit", label_logit, "easy", REAL),
    Column("other_logit", other_logit, "hard", REAL),
    Column("label_prob", label_prob, "easy", (0.0, 1.0)),
    Column("correct", correct, "easy", (0.0, 1.0)),
    Column("entropy", entropy, "either", (0.0, math.inf)),
    Column("el2n", el2n, "hard", (0.0, math.sqrt(2.0) * (1 + 1e-7))),  # rounded to float32
)


@torch.no_grad()
def on_device(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The columns of a batch, float64 [B] each, where the logits [B, C] are."""
    z, y = logits.double(), labels[:, None]
    p = z.softmax(1)
    found = {column.name: column.function(z, p, y) for column in COLUMNS}
    for name, values in found.items():
        if values.shape != labels.shape:
            raise ValueError(f"the column '{name}' is {tuple(values.shape)} for {len(labels)} samples")
    return found


def of_logits(logits: Tensor, labels: Tensor, classes: Tensor | None = None) -> dict[str, Tensor]:
    """The columns of a batch, float64 [B] each on the CPU. With `classes`, ascending, over the logits of these alone;
    every label must be among them.
    """
    return {name: values.cpu() for name, values in on_device(*among(logits, labels, classes)).items()}
