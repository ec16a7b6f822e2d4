"""Distances between two sets of weights, in all, per tensor and per module. Norms are taken in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeconn_cli.engine import weights


@dataclass(frozen=True)
class LayerDistance:
    """‖Δ‖, ‖Δ‖/√n and ‖Δ‖/‖θ₀‖ (None where ‖θ₀‖ is 0) of one tensor or module with n parameters."""

    layer_name: str
    raw_l2: float
    normalized_l2: float
    relative_distance: float | None
    n_params: int

    def figures(self) -> dict[str, Any]:
        """The entry of a layer in the documented files."""
        return {
            "raw_l2": self.raw_l2,
            "normalized_l2": self.normalized_l2,
            "relative_distance": self.relative_distance,
            "n_params": self.n_params,
        }


@dataclass(frozen=True)
class Distance:
    """How far apart two networks are. Σ layer² = total² over tensors and over modules."""

    total_l2: float
    normalized_total_l2: float
    relative_total: float | None
    total_params: int
    layers: tuple[LayerDistance, ...]  # tensors, in state-dict order
    modules: tuple[LayerDistance, ...]

    def top(self, count: int, order: str = "normalized_l2") -> list[LayerDistance]:
        """The `count` most distant tensors; ties keep the order of the state dict."""
        return sorted(self.layers, key=lambda layer: -_key(getattr(layer, order)))[:count]

    def summary(self) -> dict[str, Any]:
        """The documented entry `l2_distance` of a swap's metadata."""
        top = [
            {
                "layer_name": layer.layer_name,
                "normalized_l2": layer.normalized_l2,
                "raw_l2": layer.raw_l2,
                "n_params": layer.n_params,
            }
            for layer in self.top(5)
        ]
        return {
            "total_l2": self.total_l2,
            "normalized_total_l2": self.normalized_total_l2,
            "total_params": self.total_params,
            "top_5_layers": top,
        }


def _key(value: float | None) -> float:
    return -1.0 if value is None else value


def l2(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Distance:
    """Distances from `a` to `b`, which must be alike (`weights.check_alike`); relative to the norm of `a`."""
    squares = {name: difference_and_norm(a[name], b[name]) for name in a}
    sizes = {name: a[name].numel() for name in a}

    def layer(title: str, names: list[str]) -> LayerDistance:
        delta = math.fsum(squares[name][0] for name in names)
        norm = math.fsum(squares[name][1] for name in names)
        return _layer(title, delta, norm, sum(sizes[name] for name in names))

    total = layer("total", list(a))
    return Distance(
        total_l2=total.raw_l2,
        normalized_total_l2=total.normalized_l2,
        relative_total=total.relative_distance,
        total_params=total.n_params,
        layers=tuple(layer(name, [name]) for name in a),
        modules=tuple(layer(title, names) for title, names in weights.modules(a).items()),
    )


def _layer(name: str, delta: float, norm: float, count: int) -> LayerDistance:
    raw = math.sqrt(delta)
    return LayerDistance(
        layer_name=name,
        raw_l2=raw,
        normalized_l2=raw / math.sqrt(count) if count else 0.0,
        relative_distance=raw / math.sqrt(norm) if norm > 0 else None,
        n_params=count,
    )


@weights.one_thread()
def difference_and_norm(a: Tensor, b: Tensor) -> tuple[float, float]:
    """‖a − b‖² and ‖a‖² in float64, both tensors read once in cache-sized chunks."""
    x, y = a.detach().reshape(-1), b.detach().reshape(-1)
    delta = norm = 0.0
    left, right = torch.empty(2, min(weights.CHUNK, max(x.numel(), 1)), dtype=torch.float64)
    for begin in range(0, x.numel(), weights.CHUNK):
        n = min(weights.CHUNK, x.numel() - begin)
        p, q = left[:n], right[:n]
        p.copy_(x[begin : begin + n])
        q.copy_(y[begin : begin + n])
        norm += float(torch.dot(p, p))
        q.sub_(p)
        delta += float(torch.dot(q, q))
    return delta, norm
