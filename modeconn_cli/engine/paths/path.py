"""Paths between networks: Bezier curves, polygonal chains and straight lines.

A path is K control points, each the P parameters of a network in one flat vector, and coefficients c(t) that
sum to 1: w(t) = Σ_k c_k(t) w_k. Shapes: K control points, P parameters, T positions.
Source: Garipov et al. 2018, arXiv:1802.10026.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.weights import Weights

Kind = Literal["bezier", "polychain", "line"]

ROUNDING = 2.0**-52  # of a position on a chain, in units of the distance between two points
ALIGN = 16  # elements: every tensor begins on a cache line, as kernels like it


def coefficients(kind: Kind, num_points: int, t: float) -> np.ndarray:
    """c(t), float64 [K]: Bernstein polynomials, hat functions, or (1 − t, t).

    >>> coefficients("bezier", 3, 0.5).tolist()
    [0.25, 0.5, 0.25]
    >>> coefficients("polychain", 3, 0.25).tolist()
    [0.5, 0.5, 0.0]
    """
    if kind == "bezier":
        n = num_points - 1
        return np.array([math.comb(n, k) * t**k * (1 - t) ** (n - k) for k in range(num_points)])
    place = t * (num_points - 1)
    if abs(place - round(place)) <= ROUNDING * num_points:  # k/n·n, which is at point k
        place = round(place)
    hats = np.abs(place - np.arange(num_points))
    return np.asarray(np.maximum(0.0, 1.0 - hats))


class Layout:
    """Where each parameter of a model lies in a flat vector of reals: a complex one as its real and imaginary parts."""

    def __init__(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        kinds = {p.dtype.to_real() for p in parameters.values()}
        if len(kinds) != 1:
            raise InputError(f"the network's parameters differ in type: {', '.join(sorted(map(str, kinds)))}")
        self.dtype = kinds.pop()
        self.shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        self._complex = {name for name, p in parameters.items() if p.is_complex()}
        self.slices: dict[str, slice] = {}
        begin = 0
        for name, p in parameters.items():
            size = p.numel() * (2 if name in self._complex else 1)
            self.slices[name] = slice(begin, begin + size)
            begin += -(-size // ALIGN) * ALIGN
        self.size = begin

    def flatten(self, state: Mapping[str, Tensor], out: Tensor) -> None:
        """Copy the parameters in `state` into `out` [size]; the gaps are zero."""
        out.zero_()
        for name, view in self.views(out).items():
            view.copy_(state[name])

    def views(self, flat: Tensor) -> Weights:
        """The parameters in a flat vector, by name, without a copy."""
        return {
            name: torch.view_as_complex(flat[where].view(*self.shapes[name], 2))
            if name in self._complex
            else flat[where].view(self.shapes[name])
            for name, where in self.slices.items()
        }


@dataclass(frozen=True)
class WeightPath:
    """A path in weight space: its control points in one tensor [K, size]; on a straight line K is 2."""

    kind: Kind
    points: Tensor
    layout: Layout

    @classmethod
    def through(cls, kind: Kind, states: Sequence[Mapping[str, Tensor]], model: nn.Module) -> WeightPath:
        """The path with these control points, on the model's device."""
        layout = Layout(model)
        device = next(model.parameters()).device
        points = torch.empty(len(states), layout.size, dtype=layout.dtype, device=device)
        for row, state in zip(points, states, strict=True):
            layout.flatten(state, row)
        return cls(kind, points, layout)

    def write(self, t: float, out: Tensor) -> np.ndarray:
        """w(t) into `out` [size]; the coefficients are returned. The ends are exact, bit for bit."""
        c = coefficients(self.kind, len(self.points), t)
        if t in (0.0, 1.0):
            out.copy_(self.points[0] if t == 0.0 else self.points[-1])
            return c
        if self.kind == "line":
            torch.lerp(self.points[0], self.points[1], t, out=out)
            return c
        used = [k for k in range(len(c)) if c[k] != 0.0]
        if self.kind == "polychain" and len(used) == 2:  # each segment is a line
            torch.lerp(self.points[used[0]], self.points[used[1]], float(c[used[1]]), out=out)
            return c
        torch.mul(self.points[used[0]], float(c[used[0]]), out=out)
        for k in used[1:]:
            out.add_(self.points[k], alpha=float(c[k]))
        return c

    def control_points(self) -> list[Weights]:
        """The control points as parameters by name."""
        return [self.layout.views(row) for row in self.points]

    def endpoint_distance(self) -> float:
        """The L2 distance between the first and the last control point, summed in float64."""
        return float(weights.gram([self.points[-1]], self.points[0])[0, 0].sqrt())

    def lengths(self, ts: Iterable[float]) -> tuple[np.ndarray, np.ndarray]:
        """Step lengths ‖w(t_i) − w(t_{i−1})‖, the first of them 0, and norms ‖w(t_i)‖, each [T].

        Both are quadratic forms in the coefficients: every control point is read once, whatever T is.
        """
        gram = weights.gram(list(self.points[1:]), self.points[0]).numpy()
        inner, cross, norm = gram[:-1, :-1], gram[:-1, -1], gram[-1, -1]
        free = np.stack([coefficients(self.kind, len(self.points), t) for t in ts])[:, 1:]
        moves = np.diff(free, axis=0, prepend=free[:1])
        steps = np.sqrt(np.maximum(np.einsum("ti,ij,tj->t", moves, inner, moves), 0.0))
        squares = norm + 2 * free @ cross + np.einsum("ti,ij,tj->t", free, inner, free)
        return steps, np.sqrt(np.maximum(squares, 0.0))
