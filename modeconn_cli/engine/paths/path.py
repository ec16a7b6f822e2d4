"""Paths between networks: Bezier curves, polygonal chains and straight lines.

A path is K control points, each the P parameters of a network in one flat vector, and coefficients c(t) that
sum to 1: w(t) = Σ_k c_k(t) w_k. Shapes: K control points, P parameters, T positions.
Source: Garipov et al. 2018, arXiv:1802.10026.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks.weights import Weights

Kind = Literal["bezier", "polychain", "line"]

ALIGN = 16  # elements: every tensor begins on a cache line, as kernels like it


def coefficients(kind: Kind, num_points: int, t: float) -> np.ndarray:
    """c(t), float64 [K]: Bernstein polynomials, hat functions, or (1 − t, t)."""
    if kind == "bezier":
        n = num_points - 1
        return np.array([math.comb(n, k) * t**k * (1 - t) ** (n - k) for k in range(num_points)])
    hats = np.abs(t * (num_points - 1) - np.arange(num_points))
    return np.asarray(np.maximum(0.0, 1.0 - hats))


class Layout:
    """Where each parameter of a model lies in a flat vector."""

    def __init__(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        kinds = {p.dtype for p in parameters.values()}
        if len(kinds) != 1:
            raise InputError(f"the network's parameters differ in type: {', '.join(sorted(map(str, kinds)))}")
        self.dtype = kinds.pop()
        self.shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        self.slices: dict[str, slice] = {}
        begin = 0
        for name, p in parameters.items():
            self.slices[name] = slice(begin, begin + p.numel())
            begin += -(-p.numel() // ALIGN) * ALIGN
        self.size = begin

    def flatten(self, state: Mapping[str, Tensor], out: Tensor) -> None:
        """Copy the parameters in `state` into `out` [size]; the gaps are zero."""
        out.zero_()
        for name, view in self.views(out).items():
            view.copy_(state[name])

    def views(self, flat: Tensor) -> Weights:
        """The parameters in a flat vector, by name, without a copy."""
        return {name: flat[where].view(self.shapes[name]) for name, where in self.slices.items()}


@dataclass(frozen=True)
class Path:
    """Control points in one tensor [K, size]; on a straight line K is 2."""

    kind: Kind
    points: Tensor
    layout: Layout

    @classmethod
    def through(cls, kind: Kind, states: Sequence[Mapping[str, Tensor]], model: nn.Module) -> Path:
        """The path with these control points, on the model's device."""
        layout = Layout(model)
        device = next(model.parameters()).device
        points = torch.empty(len(states), layout.size, dtype=layout.dtype, device=device)
        for row, state in zip(points, states, strict=True):
            layout.flatten(state, row)
        return cls(kind, points, layout)

    @property
    def num_points(self) -> int:
        return len(self.points)

    def coefficients(self, t: float) -> np.ndarray:
        return coefficients(self.kind, self.num_points, t)

    def write(self, t: float, out: Tensor) -> np.ndarray:
        """w(t) into `out` [size]; the coefficients are returned. The ends are exact, bit for bit."""
        c = self.coefficients(t)
        if t in (0.0, 1.0):
            out.copy_(self.points[0] if t == 0.0 else self.points[-1])
            return c
        if self.kind == "line":
            torch.lerp(self.points[0], self.points[1], t, out=out)
            return c
        used = [k for k in range(len(c)) if c[k] != 0.0]
        torch.mul(self.points[used[0]], float(c[used[0]]), out=out)
        for k in used[1:]:
            out.add_(self.points[k], alpha=float(c[k]))
        return c

    def at(self, t: float) -> Weights:
        """The parameters at t, by name."""
        flat = torch.empty_like(self.points[0])
        self.write(t, flat)
        return self.layout.views(flat)

    def states(self) -> list[Weights]:
        """The control points as parameters by name."""
        return [self.layout.views(row) for row in self.points]


class Carrier:
    """A model whose parameters are views of one flat vector, so that a point of a path is one write."""

    def __init__(self, model: nn.Module, path: Path) -> None:
        self.model = model
        self.path = path
        self.flat = torch.zeros_like(path.points[0])
        views = path.layout.views(self.flat)
        for name, parameter in model.named_parameters():
            parameter.data = views[name]

    def move_to(self, t: float) -> np.ndarray:
        """Put w(t) into the model; returns the coefficients."""
        return self.path.write(t, self.flat)


def lengths(gram: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Step lengths ‖w(t_i) − w(t_{i−1})‖ and norms ‖w(t_i)‖, each [T], from coefficients [T, K].

    `gram` [K, K] is `weights.gram` of the points after the first, with the first as origin. The first step has
    length 0.
    """
    inner, cross, norm = gram[:-1, :-1], gram[:-1, -1], gram[-1, -1]
    moves = np.diff(c[:, 1:], axis=0, prepend=c[:1, 1:])
    steps = np.sqrt(np.maximum(np.einsum("ti,ij,tj->t", moves, inner, moves), 0.0))
    free = c[:, 1:]
    squares = norm + 2 * free @ cross + np.einsum("ti,ij,tj->t", free, inner, free)
    return steps, np.sqrt(np.maximum(squares, 0.0))
