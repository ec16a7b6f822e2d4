"""Of how many directions a layer's features make use: four ranks, which papers call by each other's names.

The features of a layer are A [N, d], a row per sample and position (of images per pixel, of texts per token), a column
per unit, not centred. Its singular values σ are the square roots of the eigenvalues of AᵀA, which is added up in
float64. The products are taken in float64 where a sample has one row: no σ below √(d · 2⁻⁵²) σ₁ is seen. Where it has
several they would take a fifth of the pass and are taken in float32, a run of rows at a time: no σ below 2⁻¹³ σ₁ is
seen, and on trained networks entropy ranks were off by up to 1e-4 of themselves, the other ranks not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeconn_cli.engine.networks.activations.sites import Layer

WIDEST = 4096  # units of a layer that ranks are taken of: the eigenvalues of more take minutes
STRIP = 64  # rows of AᵀA that one product makes: what lies left of them is known by symmetry
ON_CPU, ELSEWHERE = 1 << 17, 1 << 24  # values that are multiplied at a time: caches hold 1 MiB
ROUGH = 2.0**-26  # of the largest eigenvalue: what float32 products may make of one that is zero
TIE = 1e-9  # a share that falls short of its threshold by no more has reached it


@dataclass(frozen=True)
class Ranks:
    """Of a layer's features, None each where one of them is not finite; all ranks are 0 where all features are.

    `entropy_rank` exp(−Σ p log p), p = σ/Σσ (Roy & Vetterli 2007). `srank`: the least k with Σ_{i≤k} σᵢ ≥ 0.99 Σσ
    (Kumar et al. 2021). `stable_rank` ‖A‖²_F/‖A‖²₂. `approximate_rank`: the least k with Σ_{i≤k} σᵢ² ≥ 0.99 Σσ².
    `feature_norm`: the mean over samples of the norm of all that the layer gives of one.
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


def singular_values(gram: np.ndarray, *, rough: bool) -> np.ndarray:
    """The singular values [d] of A, descending, from the upper half of AᵀA [d, d], made of `rough` float32 products or
    of float64 ones. Those whose squares rounding may have made are zero.
    """
    # torch computes with as many threads as the run was told to.
    found = torch.linalg.eigvalsh(torch.from_numpy(gram), UPLO="U").flip(0).numpy()
    share = ROUGH if rough else len(found) * np.finfo(np.float64).eps
    return np.sqrt(np.where(found > share * max(float(found[0]), 0.0), found, 0.0))


def entries(units: int) -> int:
    """How many numbers are kept of a layer's AᵀA."""
    return sum(rows * (units - first) for first, rows in _strips(units))


def _strips(units: int) -> Iterator[tuple[int, int]]:
    """The first row of each strip of AᵀA, and its number of rows."""
    for first in range(0, units, STRIP):
        yield first, min(STRIP, units - first)


def gram_and_norms(features: Tensor) -> tuple[Tensor, Tensor]:
    """Of features [n, d, positions]: the upper half of AᵀA in strips [entries(d)], and the sum of samples' norms []."""
    count, units, positions = features.shape
    features = features.double() if positions == 1 else features
    gram = torch.zeros(entries(units), dtype=torch.float64, device=features.device)
    norms = gram.new_zeros(())
    most = ON_CPU if features.device.type == "cpu" else ELSEWHERE
    step = max(1, most // (units * positions))
    for begin in range(0, count, step):
        norms += _add_products(gram, features[begin : begin + step]).sum(dtype=torch.float64)
    return gram, norms


def _add_products(gram: Tensor, features: Tensor) -> Tensor:
    """Add the products of these samples to `gram`; their norms [n]."""
    _, units, positions = features.shape
    if units <= STRIP and positions >= 2 * units:  # sample by sample nothing is copied, and runs are short
        products = torch.bmm(features, features.transpose(1, 2))
        gram += products.sum(0, dtype=torch.float64).flatten()
        return products.diagonal(dim1=1, dim2=2).sum(1).sqrt()
    rows, at = features.transpose(0, 1).flatten(1), 0
    for first, height in _strips(units):
        strip = rows[first : first + height] @ rows[first:].T
        gram[at : at + strip.numel()] += strip.flatten()
        at += strip.numel()
    norms: Tensor = torch.linalg.vector_norm(features.flatten(1), dim=1)
    return norms


def whole(strips: np.ndarray, units: int) -> np.ndarray:
    """AᵀA [d, d] from its strips; zeros below its strips."""
    out, at = np.zeros((units, units)), 0
    for first, rows in _strips(units):
        size = rows * (units - first)
        out[first : first + rows, first:] = strips[at : at + size].reshape(rows, -1)
        at += size
    return out


def ranks(strips: np.ndarray, norms: float, layer: Layer, samples: int) -> Ranks:
    """The ranks of a layer's features, from what `gram_and_norms` gives, added up over so many samples."""
    if not (np.isfinite(strips).all() and math.isfinite(norms)) or samples == 0:
        return Ranks()
    sigma = singular_values(whole(strips, layer.units), rough=layer.positions > 1)
    return Ranks(*of_spectrum(sigma), norms / samples)


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
