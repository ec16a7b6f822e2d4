"""Distances between two networks: of their weights, in all, per tensor and per module, and of their answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import sums, weights
from modeconn_cli.engine.networks.sums import Squares
from modeconn_cli.engine.statistics import wilson


@dataclass(frozen=True)
class LayerDistance:
    """‖Δ‖, ‖Δ‖/√n and ‖Δ‖/‖θ₀‖ (None where ‖θ₀‖ is 0) of one tensor or module with n parameters; the cosine distance
    (None for a zero vector) and the Fisher distance (None where no Fisher information is known).
    """

    layer_name: str
    raw_l2: float
    normalized_l2: float
    relative_distance: float | None
    n_params: int
    cosine_distance: float | None = None
    fisher_distance: float | None = None

    def figures(self, more: Iterable[str] = ()) -> dict[str, Any]:
        """The entry of a layer in the documented files, with further distances by their names."""
        return {
            "raw_l2": self.raw_l2,
            "normalized_l2": self.normalized_l2,
            "relative_distance": self.relative_distance,
            "n_params": self.n_params,
            **{name: getattr(self, name) for name in more},
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
    cosine_distance: float | None = None
    fisher_distance: float | None = None
    fisher_distance_stderr: float | None = None  # over the samples that the information was estimated on

    def top(self, count: int, order: str = "normalized_l2") -> list[LayerDistance]:
        """The `count` most distant tensors; ties keep the order of the state dict."""
        return sorted(self.layers, key=lambda layer: -_key(getattr(layer, order)))[:count]

    def totals(self) -> dict[str, float | None]:
        """The documented entries over all tensors."""
        return {
            "total_l2": self.total_l2,
            "normalized_total_l2": self.normalized_total_l2,
            "relative_total": self.relative_total,
        }

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
    if value is None:
        return -1.0
    return math.inf if math.isnan(value) else value  # what is broken comes first


def l2(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Distance:
    """Distances from `a` to `b`, which must be alike (`weights.check_alike`); relative to the norm of `a`.

    >>> import torch
    >>> found = l2({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([0.0, 0.0])})
    >>> (found.total_l2, round(found.normalized_total_l2, 4), found.relative_total)
    (5.0, 3.5355, 1.0)
    """
    return distance(sums.among([a, b], [(0, 1)])[0])


def distance(found: Mapping[str, Squares]) -> Distance:
    """What the sums over all tensors of a pair say."""
    total = _layer("total", [found[name] for name in found])
    return Distance(
        total_l2=total.raw_l2,
        normalized_total_l2=total.normalized_l2,
        relative_total=total.relative_distance,
        total_params=total.n_params,
        cosine_distance=total.cosine_distance,
        fisher_distance=total.fisher_distance,
        layers=tuple(_layer(name, [found[name]]) for name in found),
        modules=tuple(
            _layer(title, [found[name] for name in names]) for title, names in weights.modules(found).items()
        ),
    )


def _layer(name: str, parts: list[Squares]) -> LayerDistance:
    whole = Squares.total(parts)
    raw = math.sqrt(whole.delta)
    return LayerDistance(
        layer_name=name,
        raw_l2=raw,
        normalized_l2=raw / math.sqrt(whole.size) if whole.size else 0.0,
        relative_distance=raw / math.sqrt(whole.first) if whole.first > 0 else None,
        n_params=whole.size,
        cosine_distance=whole.cosine_distance,
        fisher_distance=None if whole.fisher is None else math.sqrt(whole.fisher),
    )


@dataclass(frozen=True)
class FunctionalDistance:
    """How answers differ: share of different arg-max, mean KL(p_a‖p_b) in nats, mean ‖logits_a − logits_b‖; each with
    its standard error, which is NaN for one sample, and for KL and logits where all samples have the same value.

    Where all samples agree, or none does, the disagreement's is the bound of `statistics.wilson`: it would be 0.
    """

    disagreement: float
    kl: float
    logit_distance: float
    samples: int
    disagreement_stderr: float
    kl_stderr: float
    logit_distance_stderr: float


def functional(answers: Iterable[tuple[Tensor, Tensor]]) -> FunctionalDistance:
    """Measure how two networks' logits [n, classes] on the same samples differ, batch by batch.

    Raises InputError for other numbers of classes, and where there are no samples.
    """
    parts: list[Tensor] = []
    for a, b in answers:
        if a.shape != b.shape or a.ndim != 2:
            raise InputError(f"logits of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared")
        x, y = a.double(), b.double()
        p, q = x.log_softmax(1), y.log_softmax(1)
        different = (x.argmax(1) != y.argmax(1)).double()
        kl = (p.exp() * (p - q)).sum(1).clamp_min(0.0)
        parts.append(torch.stack([different, kl, (x - y).norm(dim=1)]).cpu())
    if not parts:
        raise InputError("there are no inputs")
    values = torch.cat(parts, dim=1)  # [3, samples]
    count = values.shape[1]
    spread = values.std(1) if count > 1 else torch.full((3,), math.nan)
    disagreement, kl_, distance_ = values.mean(1).tolist()
    errors = [error or math.nan for error in (spread / math.sqrt(count)).tolist()]
    if count > 1 and disagreement in (0, 1):
        errors[0] = wilson(count)
    return FunctionalDistance(disagreement, kl_, distance_, count, *errors)
