"""Training a path: one position per step, gradients to the free points by their coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modeconn_cli.engine import keyed
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.paths.carrier import Carrier, Ends
from modeconn_cli.engine.paths.file import BUFFERS
from modeconn_cli.engine.paths.path import WeightPath

Plane = Literal["none", "symmetry-plane", "symmetry-plane-per-tensor"]


class PathProblem:
    """Minimise E_t [cross-entropy at w(t) + ½·wd·‖w(t)‖²] over the free points (Garipov et al. 2018).

    The gradient with respect to point k is c_k(t) (∇ℓ(w(t)) + wd·w(t)): no autograd through the blend. The
    model's gradients accumulate onto wd·w(t) in one flat vector, and the optimizer sees one parameter. Frozen
    parameters have no gradient at all, also not that of their share of the penalty.
    """

    optimizer_decay = 0.0
    draws = 1

    def __init__(
        self,
        model: nn.Module,
        path: WeightPath,
        *,
        weight_decay: float,
        seed: int,
        fix_start: bool = True,
        fix_end: bool = True,
        plane: Plane = "none",
        buffers: Ends = (),
    ) -> None:
        """`buffers`: both ends' own; without them the model's stay as they are."""
        self.model = model
        self.path = path
        self.weight_decay = weight_decay
        self.seed = seed
        self.free = slice(1 if fix_start else 0, len(path.points) - (1 if fix_end else 0))
        self.trainable = [nn.Parameter(path.points[self.free])]
        self.trainable[0].grad = torch.zeros_like(self.trainable[0])
        self.carrier = Carrier(model, path, buffers)
        self._gradient = torch.zeros_like(self.carrier.flat)
        views = path.layout.views(self._gradient)
        for name, view in views.items():
            model.get_parameter(name).grad = view
        self._frozen = [views[name] for name in weights.frozen_in(model)]
        self._share = torch.zeros(len(path.points))
        self._planes = self._normals(plane)
        self._buffers = buffers

    def place(self, step: int) -> None:
        """Draw t for this step and move the model there."""
        with torch.no_grad():
            t = keyed.fraction(self.seed, "t", step)
            c = self.carrier.move_to(t)
            self._share = torch.from_numpy(c)[self.free]
            torch.mul(self.carrier.flat, self.weight_decay, out=self._gradient)
            for view in self._frozen:
                view.zero_()

    def _normals(self, plane: Plane) -> list[tuple[slice, Tensor]]:
        """The unit vectors from one end to the other, in what is trained, and the elements that each is of."""
        if plane == "none":
            return []
        between = self.path.points[-1] - self.path.points[0]
        views = self.path.layout.views(between)
        for name in weights.frozen_in(self.model):
            views[name].zero_()
        whole = slice(0, len(between))
        places = [whole] if plane == "symmetry-plane" else list(self.path.layout.slices.values())
        return [(where, _unit(between[where])) for where in places if bool(between[where].any())]

    @torch.no_grad()
    def move_to(self, t: float) -> None:
        """Put w(t) into the model, to look at it."""
        self.carrier.move_to(t)

    @torch.no_grad()
    def collect(self) -> Tensor:
        """Hand the gradient to the free points; returns ½·wd·‖w(t)‖²."""
        grads = self.trainable[0].grad
        assert grads is not None
        for row, share in zip(grads, self._share.tolist(), strict=True):
            torch.mul(self._gradient, share, out=row)
        return 0.5 * self.weight_decay * weights.square_norm(self.carrier.flat)

    @torch.no_grad()
    def settle(self) -> None:
        """Project the free point onto the plane of equal distance from both ends, or onto that of every tensor."""
        for where, normal in self._planes:
            middle = (self.path.points[0][where] + self.path.points[-1][where]) / 2
            for row in self.trainable[0]:
                row[where] -= torch.dot(row[where] - middle, normal) * normal

    def content(self) -> dict[str, Any]:
        return {
            "control_points": self.path.control_points(),
            **dict(zip(BUFFERS, self._buffers, strict=False)),
            "extra_state": weights.extra_of(self.model),
            "curve": self.path.kind,
            "num_bends": len(self.path.points),
        }

    @torch.no_grad()
    def restore(self, content: Mapping[str, Any]) -> None:
        for row, state in zip(self.path.points, content["control_points"], strict=True):
            self.path.layout.flatten(state, row)


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = vector / torch.linalg.vector_norm(vector)
    return unit
