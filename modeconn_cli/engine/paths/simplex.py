"""Simplexes of low loss (Benton et al. 2021, arXiv:2102.13042): a vertex is added, the old ones stay.

A complex through two networks has a simplex for each of them, which share the vertices that were added. Shapes:
K vertices, P parameters, n + 1 vertices of a simplex of dimension n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from modeconn_cli.engine import keyed
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.weights import Weights
from modeconn_cli.engine.paths.carrier import Carrier, Ends
from modeconn_cli.engine.paths.file import BUFFERS, SIMPLEX
from modeconn_cli.engine.paths.path import WeightPath

DISPLACED = 0.01  # of the endpoints' distance, per tensor: at the mean of the old vertices the volume is 0


def log_volume(points: Tensor) -> tuple[float, Tensor]:
    """log V of the simplex with these vertices [n + 1, P], and the share [n + 1], float64, of each in its gradient.

    V = √det(G) / n!, G the Gram matrix of the edges e_k = p_k − v at the last vertex v. The gradient of log V with
    respect to v is −Σ_k (G⁻¹ 1)_k e_k, the unit normal over the height. Raises InputError where V is 0.

    >>> round(math.exp(log_volume(torch.tensor([[0.0, 0], [1, 0], [0, 1]]))[0]), 12)
    0.5
    """
    edges = weights.gram(list(points[:-1]), points[-1])[:-1, :-1]
    sign, logarithm = torch.linalg.slogdet(edges)
    if sign <= 0:
        raise InputError("the vertices of a simplex lie in a plane of fewer dimensions: it has no volume")
    shares = torch.linalg.solve(edges, torch.ones(len(edges), dtype=edges.dtype))
    found = 0.5 * float(logarithm) - math.lgamma(len(edges) + 1)
    return found, torch.cat([-shares, shares.sum()[None]])


def uniform_shares(seed: int, index: int, count: int) -> Tensor:
    """Barycentric coordinates of a point drawn uniformly from a simplex with `count` vertices, float64 [count]."""
    drawn = keyed.uniform(seed, "simplex", torch.tensor([index]), width=count)[0]
    lengths = -torch.log1p(-drawn)
    return lengths / lengths.sum()


def new_vertex(vertices: Sequence[Mapping[str, Tensor]], seed: int, fixed: Sequence[str] = ()) -> Weights:
    """The mean of the old vertices, the first two of which are the endpoints, displaced by Gaussian noise.

    Of every tensor but the `fixed` ones the noise's norm is 0.01 of the endpoints' distance, of the tensor's own norm
    where they are equal.
    """
    generator = torch.Generator().manual_seed(keyed.number(seed, "simplex vertex", len(vertices)))
    out: Weights = {}
    for name, first in vertices[0].items():
        mean = torch.stack([vertex[name] for vertex in vertices]).mean(0)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        scale = float(vector_norm(vertices[1][name] - first)) or float(vector_norm(mean))
        scale *= DISPLACED / max(float(vector_norm(noise)), 1e-30)
        out[name] = mean if name in fixed else mean + scale * noise
    return out


class SimplexProblem:
    """Minimise E_w [cross-entropy at w + ½·wd·‖w‖²] − λ log V over the newest vertex, w uniform in the complex.

    V is the sum of the volumes of the simplexes, of their squares in `compat` benton, whose losses are summed over the
    `draws` positions of a step instead of averaged. A step draws a simplex and a point in it for each position.
    """

    optimizer_decay = 0.0

    def __init__(
        self,
        model: nn.Module,
        vertices: WeightPath,
        *,
        weight_decay: float,
        seed: int,
        volume_weight: float,
        draws: int,
        compat: bool,
        buffers: Ends = (),
    ) -> None:
        """`vertices`: endpoint 0, endpoint 1, what was added to them before, and the new one."""
        self.model, self.path, self.draws = model, vertices, draws
        self.weight_decay, self.seed, self.volume_weight, self.compat = (
            weight_decay,
            seed,
            volume_weight,
            compat,
        )
        self.trainable = [nn.Parameter(vertices.points[-1:])]
        self.trainable[0].grad = torch.zeros_like(self.trainable[0])
        self.carrier = Carrier(model, vertices, buffers)
        if self.carrier.note:
            raise InputError(
                f"{self.carrier.note}: between the vertices of a simplex there is nothing to take"
            )
        self.simplexes = simplexes_of(vertices.points)
        self._gradient = torch.zeros_like(self.carrier.flat)
        views = vertices.layout.views(self._gradient)
        for name, view in views.items():
            model.get_parameter(name).grad = view
        whole = vertices.layout.views(self.trainable[0].grad[0])
        self._frozen = [each[name] for each in (views, whole) for name in weights.frozen_in(model)]
        self._buffers, self._share, self._first, self._logarithm = buffers, 0.0, True, 0.0

    @torch.no_grad()
    def place(self, step: int) -> None:
        """Draw a point for this position and move the model there; `step` counts the positions of all steps."""
        chosen = self.simplexes[int(keyed.fraction(self.seed, "simplex of", step) * len(self.simplexes))]
        shares = uniform_shares(self.seed, step, len(chosen))
        self._blend(chosen, shares)
        self._share, self._first = float(shares[-1]), step % self.draws == 0
        torch.mul(self.carrier.flat, self.weight_decay, out=self._gradient)
        for view in self._frozen:
            view.zero_()

    def _blend(self, chosen: Sequence[int], shares: Tensor) -> None:
        self.carrier.flat.zero_()
        for k, share in zip(chosen, shares.tolist(), strict=True):
            self.carrier.flat.add_(self.path.points[k], alpha=share)

    @torch.no_grad()
    def move_to(self, t: float) -> None:  # noqa: ARG002 - a path has a middle at t = 0.5
        """Put the middle of endpoint 0's simplex into the model, to look at it."""
        chosen = self.simplexes[0]
        self._blend(chosen, torch.full((len(chosen),), 1 / len(chosen)))

    @torch.no_grad()
    def collect(self) -> Tensor:
        """Add the gradient to the new vertex's; returns ½·wd·‖w‖² − λ log V."""
        grad = self.trainable[0].grad
        assert grad is not None
        if self._first:
            self._logarithm, pull = self.log_volume(2 if self.compat else 1)
            grad[0] = 0
            for k, share in enumerate(pull.tolist()):
                grad[0].add_(self.path.points[k], alpha=-self.volume_weight * share)
        grad[0].add_(self._gradient, alpha=self._share / (1 if self.compat else self.draws))
        for view in self._frozen:
            view.zero_()
        penalty = 0.5 * self.weight_decay * weights.square_norm(self.carrier.flat)
        return penalty - self.volume_weight * self._logarithm

    def log_volume(self, power: int = 1) -> tuple[float, Tensor]:
        """log Σ V^power over the simplexes, and the share [K], float64, of each vertex in its gradient."""
        found = [log_volume(self.path.points[list(chosen)]) for chosen in self.simplexes]
        logarithms = power * torch.tensor([each for each, _ in found], dtype=torch.float64)
        out = torch.zeros(len(self.path.points), dtype=torch.float64)
        for chosen, part, (_, shares) in zip(self.simplexes, logarithms.softmax(0), found, strict=True):
            out[list(chosen)] += part * power * shares
        return float(logarithms.logsumexp(0)), out

    def settle(self) -> None:
        """The other vertices are not trained."""

    def content(self) -> dict[str, Any]:
        return {
            "control_points": self.path.control_points(),
            **dict(zip(BUFFERS, self._buffers, strict=False)),
            "extra_state": weights.extra_of(self.model),
            "curve": SIMPLEX,
            "num_bends": len(self.path.points),
        }

    @torch.no_grad()
    def restore(self, content: Mapping[str, Any]) -> None:
        for row, state in zip(self.path.points, content["control_points"], strict=True):
            self.path.layout.flatten(state, row)


def simplexes_of(points: Tensor) -> list[list[int]]:
    """The vertices of each simplex: one for each endpoint, with all that were added; equal endpoints are one."""
    added = list(range(2, len(points)))
    ends = (0,) if torch.equal(points[0], points[1]) else (0, 1)
    return [[end, *added] for end in ends]
