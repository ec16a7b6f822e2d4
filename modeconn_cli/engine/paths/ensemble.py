"""Ensembles of the networks at some positions of a path, and what their confidence is worth.

The ensemble's probabilities are the mean of its members' (Garipov et al. 2018; Lakshminarayanan et al. 2017). Shapes:
N samples, C classes.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks.cross_entropy import cross_entropy
from modeconn_cli.engine.paths import evaluate
from modeconn_cli.engine.paths.answers import Keeping
from modeconn_cli.engine.paths.opened import OpenedPath

BINS = 15  # of confidence, of equal width


@dataclass(frozen=True)
class Quality:
    """What the held-out images say of a network or an ensemble: accuracy in percent, the label's negative log
    probability in nats, and the expected calibration error, a share of 1.
    """

    accuracy: float
    nll: float
    ece: float


@dataclass(frozen=True)
class Member(Quality):
    """The network at `t`."""

    t: float


@dataclass(frozen=True)
class Ensemble:
    """The members, the mean of their probabilities, and the network with the mean of their weights."""

    members: list[Member]
    ensemble: Quality
    weight_average: Quality
    bins: int
    passes: int  # forward passes over batches that the statistics of the weight average have cost


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Σ_m |B_m|/N · |accuracy(B_m) − confidence(B_m)| over bins ((m−1)/M, m/M] of the confidence [N] in an answer that
    is `right` or not [N] (Guo et al. 2017, arXiv:1706.04599).

    >>> round(calibration_error(np.array([0.95, 0.95, 0.5, 0.5]), np.array([True, True, True, False])), 6)
    0.025
    """
    if np.isnan(confidence).any():
        return math.nan
    edges = np.linspace(0, 1, bins + 1)
    number = np.digitize(confidence, edges[1:-1], right=True)
    gaps = np.bincount(number, weights=right.astype(float) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def quality(probabilities: Tensor, losses: Tensor, labels: Tensor) -> Quality:
    """Of probabilities float64 [N, C] and the losses at the labels, float64 [N]."""
    confidence, classes = probabilities.max(1)
    right = (classes == labels).numpy()
    return Quality(
        float(100 * right.mean()), float(losses.mean()), calibration_error(confidence.numpy(), right)
    )


class Mean:
    """The mean of members' probabilities; of equal members it is theirs, bit for bit."""

    def __init__(self, labels: Tensor) -> None:
        self._labels = labels
        self._first: Tensor | None = None
        self._beyond = torch.zeros(())  # the sum of what the others have more than the first, [N, C]
        self._losses: list[Tensor] = []

    def add(self, logits: Tensor) -> Quality:
        """Take up a member's logits [N, C]; returns its own quality."""
        probabilities = logits.double().softmax(1)
        losses = cross_entropy(logits, self._labels)
        if self._first is None:
            self._first = probabilities
        self._beyond = self._beyond + (probabilities - self._first)
        self._losses.append(losses)
        return quality(probabilities, losses, self._labels)

    def quality(self) -> Quality:
        """Of the mean. Its loss is −log Σ exp(−ℓ_i)/k, which keeps the digits of small losses."""
        assert self._first is not None
        losses = torch.stack(self._losses)
        least = losses.amin(0)
        mean = least - (least - losses).exp().mean(0).log()
        return quality(self._first + self._beyond / len(losses), mean, self._labels)


def ensemble_of(opened: OpenedPath, keeping: Keeping, runtime: Runtime, private: Path) -> Ensemble:
    """The ensemble of the members whose answers have been kept, in the order of t.

    Their weight average is measured as any position, with the statistics of the path's policy, and kept in `private`.
    """
    ts = sorted(keeping.members)
    mean = Mean(opened.subject.data.held_out.labels.cpu())
    members = [Member(**vars(mean.add(_logits(keeping, t))), t=t) for t in ts]
    named = f"average-{hashlib.sha256(repr(ts).encode()).hexdigest()[:12]}"
    average = Keeping(private / named, everywhere=False, members=frozenset({evaluate.middle(ts)}))
    found = evaluate.measure_average(opened, ts, runtime, private / f"{named}-{{}}.jsonl", average)
    own = Mean(opened.subject.data.held_out.labels.cpu()).add(_logits(average, found.t))
    return Ensemble(members, mean.quality(), own, BINS, found.passes)


def _logits(keeping: Keeping, t: float) -> Tensor:
    logits = keeping.read(t).logits
    assert logits is not None
    return torch.from_numpy(logits)
