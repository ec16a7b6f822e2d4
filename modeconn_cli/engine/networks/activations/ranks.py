"""Of how many directions a layer's features make use: four ranks, which papers call by each other's names.

The features of a layer are A [N, d], a row per sample and position (of images per pixel, of texts per token), a column
per unit, not centred. Its singular values σ are the square roots of the eigenvalues of AᵀA, which is added up batch by
batch in float64: what a float32 product rounds away would be 3e-4 σ₁, and 1e-8 σ₁ is what this one does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.networks.activations.sites import Layer

WIDEST = 4096  # units of a layer that ranks are taken of: the eigenvalues of more take minutes
STRIP = 64  # rows of AᵀA that one product makes: what lies left of them is known by symmetry
ON_CPU, ELSEWHERE = 1 << 17, 1 << 24  # values that are copied to float64 at a time: caches hold 1 MiB
TIE = 1e-9  # a share that falls short of its threshold by no more has reached it


@dataclass(frozen=True)
class Ranks:
    """Of a layer's features, None each where one of them is not finite; all ranks are 0 where all features are.

    `entropy_rank` exp(−Σ p log p), p = σ/Σσ (Roy & Vetterli 2007). `srank`: the least k with Σ_{i≤k} σᵢ ≥ 0.99 Σσ
    (Kumar et al. 2021). `stable_rank` ‖A‖²_F/‖A‖²₂. `approximate_rank`: the least k with Σ_{i≤k} σᵢ² ≥ 0.99 Σσ².
    `feature_norm`: the mean of the rows' norms.
    """

    entropy_rank: float | None = None
    srank: int | None = None
    stable_rank: float | None = None
    approximate_rank: int | None = None
    feature_norm: float | None = None


def of_spectrum(sigma: np.ndarray) -> tuple[float, int, float, int]:
    """Entropy rank, srank(0.01), stable and approximate rank of singular values in descending order."""
    if len(sigma) == 0 or sigma[0] == 0:
        return 0.0, 0, 0.0, 0
    relative = sigma / sigma[0]  # squares of large values stay finite
    squares = relative**2
    return entropy_rank(relative), least(relative, 0.99), float(squares.sum()), least(squares, 0.99)


def entropy_rank(sigma: np.ndarray) -> float:
    """exp(−Σ p log p) with p = σ/Σσ (Roy & Vetterli 2007, The effective rank)."""
    p = sigma[sigma > 0] / sigma.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def least(values: np.ndarray, share: float) -> int:
    """The least k with Σ_{i≤k} values ≥ share · Σ values, of values in descending order."""
    reached = np.cumsum(values) >= (share - TIE) * values.sum()
    return int(np.argmax(reached)) + 1


def singular_values(gram: np.ndarray) -> np.ndarray:
    """The singular values [d] of A, descending, from the upper half of AᵀA [d, d].

    Eigenvalues that rounding may have made, up to d · 2⁻⁵² of the largest, are zero: no σ below √(d · 2⁻⁵²) σ₁ is seen.
    """
    # torch computes with as many threads as the run was told to.
    found = torch.linalg.eigvalsh(torch.from_numpy(gram), UPLO="U").flip(0).numpy()
    floor = len(found) * np.finfo(np.float64).eps * max(float(found[0]), 0.0)
    return np.sqrt(np.where(found > floor, found, 0.0))


def entries(units: int) -> int:
    """How many numbers are kept of a layer's AᵀA."""
    return sum(rows * (units - first) for first, rows in _strips(units))


def _strips(units: int) -> Iterator[tuple[int, int]]:
    """The first row of each strip of AᵀA, and its number of rows."""
    for first in range(0, units, STRIP):
        yield first, min(STRIP, units - first)


def gram_and_norms(features: Tensor) -> tuple[Tensor, Tensor]:
    """Of features [n, d, positions]: the upper half of AᵀA in strips [entries(d)], and the sum of row norms []."""
    count, units, positions = features.shape
    gram = torch.zeros(entries(units), dtype=torch.float64, device=features.device)
    norms = gram.new_zeros(())
    ends = list(itertools.accumulate(rows * (units - first) for first, rows in _strips(units)))
    most = ON_CPU if features.device.type == "cpu" else ELSEWHERE
    step = max(1, most // (units * positions))
    for begin in range(0, count, step):
        part = features[begin : begin + step]
        a = gram.new_empty(units, len(part), positions).copy_(part.transpose(0, 1)).flatten(1)
        for (first, rows), end in zip(_strips(units), ends, strict=True):
            strip = gram[end - rows * (units - first) : end].view(rows, -1)
            strip.addmm_(a[first : first + rows], a[first:].T)
        norms += torch.linalg.vector_norm(a, dim=0).sum()
    return gram, norms


def whole(strips: np.ndarray, units: int) -> np.ndarray:
    """AᵀA [d, d] from its strips; zeros below its strips."""
    out, at = np.zeros((units, units)), 0
    for first, rows in _strips(units):
        size = rows * (units - first)
        out[first : first + rows, first:] = strips[at : at + size].reshape(rows, -1)
        at += size
    return out


def ranks(strips: np.ndarray, norms: float, units: int, rows: int) -> Ranks:
    """The ranks of a layer's features, N `rows` of so many `units`."""
    if not (np.isfinite(strips).all() and math.isfinite(norms)) or rows == 0:
        return Ranks()
    return Ranks(*of_spectrum(singular_values(whole(strips, units))), norms / rows)


def chosen(layers: Sequence[Layer], room: int) -> tuple[list[Layer], list[Layer]]:
    """The layers behind nonlinearities whose ranks are taken, and those that are left out: wider ones than `WIDEST`,
    and the widest until no more than `room` numbers are kept.
    """
    known = [layer for layer in layers if layer.kind == "post"]
    kept, used = set[Layer](), 0
    for layer in sorted(known, key=lambda each: each.units):
        used += entries(layer.units)
        if layer.units <= WIDEST and used <= room:
            kept.add(layer)
    return [layer for layer in known if layer in kept], [layer for layer in known if layer not in kept]
