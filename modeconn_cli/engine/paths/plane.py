"""Planes in weight space: which two directions span one, and the weights at its places.

A plane is an origin, one of K networks, and two unit vectors, each a blend of the networks' differences from it, or
drawn at random. Everything that is said of blends follows from the Gram matrix of these differences, in float64.
Shapes: K networks, P parameters in `size` elements (`Layout`), G cells along an axis.
Sources: Garipov et al. 2018, arXiv:1802.10026; Li et al. 2018, arXiv:1712.09913.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from modeconn_cli.engine import keyed
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.weights import Weights
from modeconn_cli.engine.paths.path import Layout

FLATTEST = 0.01  # degrees: at a smaller angle three networks lie on a straight line

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Span:
    """Two unit vectors e = Σ_k c_k (w_k − w_origin), and where the networks lie.

    `blends` [2, K] holds their c, `coordinates` [K, 2] the networks' along them, `off` [K] the networks' distances from
    the plane. `spans` are the lengths by which α and β are counted. `angle` is that at the origin between the other two
    of three networks, in degrees; `shares` those of the variance of many that lie along either vector.
    """

    origin: int
    blends: np.ndarray
    coordinates: np.ndarray
    off: np.ndarray
    spans: tuple[float, float]
    angle: float | None = None
    shares: tuple[float, float] | None = None

    def of_curve(self, coefficients: np.ndarray) -> np.ndarray:
        """The coordinates [T, 2] of blends of the networks, whose coefficients [T, K] sum to 1."""
        found: np.ndarray = coefficients @ self.coordinates
        return found


def through(gram: np.ndarray, names: Sequence[str]) -> Span:
    """The plane through three networks, by the Gram matrix [3, 3] of their differences from the first.

    u = w₂ − w₀ and v = w₁ − w₀ − ⟨w₁ − w₀, u⟩ u / ‖u‖² over their norms (Garipov et al. 2018). Raises InputError where
    networks are equal or lie on a straight line.

    >>> gram = np.array([[0.0, 0.0, 0.0], [0.0, 5.0, 2.0], [0.0, 2.0, 4.0]])  # (0, 0), (1, 2) and (2, 0)
    >>> through(gram, ("a", "b", "c")).coordinates.tolist()
    [[0.0, 0.0], [1.0, 2.0], [2.0, 0.0]]
    """
    _check_finite(gram)
    one, two, between = float(gram[1, 1]), float(gram[2, 2]), float(gram[1, 2])
    _check_different(one, two, one + two - 2 * between, names)
    width = math.sqrt(two)
    along = between / two
    height = math.sqrt(max(one - between * along, 0.0))
    angle = math.degrees(math.atan2(height, between / width))
    if min(angle, 180 - angle) < FLATTEST:
        raise InputError(
            f"the three networks lie on a straight line, within {FLATTEST:g} degrees: the angle at '{names[0]}' "
            f"between the other two is {angle:.4g}",
            "mcx curve eval A.pt B.pt evaluates a line",
        )
    blends = np.array([[0.0, 0.0, 1 / width], [0.0, 1 / height, -along / height]])
    coordinates = np.array([[0.0, 0.0], [between / width, height], [width, 0.0]])
    return Span(0, blends, coordinates, np.zeros(3), (width, height), angle=angle)


def _check_finite(gram: np.ndarray) -> None:
    if not np.isfinite(gram).all():
        raise InputError(
            "the networks' weights are so large that their distances are not finite: they span no plane"
        )


def _check_different(one: float, two: float, last: float, names: Sequence[str]) -> None:
    """Raises InputError where any two of three networks, of these squared distances, are equal."""
    if one == 0 and two == 0:
        raise InputError(
            f"the three networks are equal: '{names[0]}', '{names[1]}' and '{names[2]}' span no plane",
            "name three that differ",
        )
    for distance, first, second in ((one, 0, 1), (two, 0, 2), (last, 1, 2)):
        if distance <= 0:
            raise InputError(
                f"'{names[first]}' and '{names[second]}' have equal weights: with a third they span a line, no plane",
                "name three that differ",
            )


def principal(gram: np.ndarray) -> Span:
    """The plane of the two leading principal directions of a run, by the Gram matrix [K, K] of its networks'
    differences from the last, through which it goes.

    With H = I − 11ᵀ/K and H G H = Σ λ q qᵀ these are Σ_k (H q)_k (w_k − w_last) / √λ (Li et al. 2018). The first
    network has no negative coordinate. Raises InputError where networks are fewer than three, equal, or on a line.
    """
    count = len(gram)
    if count < 3:
        raise InputError(
            f"the run has {count} checkpoints: a plane takes three", "save more of them with --save-freq"
        )
    _check_finite(gram)
    centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    values, vectors = np.maximum(values[:-3:-1], 0.0), vectors[:, :-3:-1]
    total = float(np.trace(centred))
    if not math.sqrt(values[1]) > math.tan(math.radians(FLATTEST)) * math.sqrt(values[0]):
        share = f", {values[1] / total:.2g} of the variance lies beside it" if total > 0 else ""
        what = "lie on a straight line" if total > 0 else "are equal"
        raise InputError(f"the run's {count} checkpoints {what}{share}: they span no plane")
    blends = ((vectors - vectors.mean(0)) / np.sqrt(values)).T
    coordinates = gram @ blends.T
    signs = np.where(coordinates[0] < 0, -1.0, 1.0)
    blends, coordinates = blends * signs[:, None], coordinates * signs + 0.0  # no negative zero
    off = np.sqrt(np.maximum(np.diag(gram) - (coordinates**2).sum(1), 0.0))
    extent = np.ptp(coordinates, axis=0)
    shares = values / total
    return Span(
        count - 1,
        blends,
        coordinates,
        off,
        (float(extent[0]), float(extent[1])),
        shares=(float(shares[0]), float(shares[1])),
    )


def ticks(span: Span, axis: int, margin: float, count: int) -> np.ndarray:
    """Positions along an axis in units of its span, [count]: through three networks from −margin to 1 + margin (Garipov
    et al. 2018), of a run as far beyond its checkpoints; further where a network would lie outside.
    """
    places = span.coordinates[:, axis] / span.spans[axis]
    first, last = float(places.min()), float(places.max())
    low, high = (0.0, 1.0) if span.shares is None else (first, last)
    return np.linspace(min(low - margin, first), max(high + margin, last), count)


@weights.one_thread()
def blended(points: Sequence[Tensor], origin: int, blends: np.ndarray) -> Tensor:
    """Σ_k c_k (w_k − w_origin) for each row c of `blends` [2, K], summed in float64; [2, size] as the points are."""
    out = torch.empty(len(blends), len(points[0]), dtype=points[0].dtype)
    mix = torch.from_numpy(np.ascontiguousarray(blends))
    for begin in range(0, out.shape[1], weights.CHUNK):
        part = torch.stack([point[begin : begin + weights.CHUNK].double().cpu() for point in points])
        out[:, begin : begin + weights.CHUNK] = mix @ (part - part[origin])
    return out.to(points[0].device)


def random_direction(model: nn.Module, network: Mapping[str, Tensor], seed: int, number: int) -> Weights:
    """A Gaussian direction as parameters by name, each filter of it as long as the network's (Li et al. 2018).

    A filter is what stands at one index of a tensor's first axis. Tensors of fewer than two axes, parameters of
    normalisation and frozen ones are 0.
    """
    still = {
        f"{place}.{name}".lstrip(".")
        for place, module in model.named_modules()
        if isinstance(module, _NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }
    still |= set(weights.frozen_in(model))
    generator = torch.Generator().manual_seed(keyed.number(seed, "direction of a plane", number))
    out = {}
    for name, tensor in network.items():
        kind = torch.complex128 if tensor.is_complex() else torch.float64
        drawn = torch.randn(tensor.shape, generator=generator, dtype=kind)  # also for those that stay
        if tensor.ndim < 2 or name in still:
            out[name] = torch.zeros_like(tensor)
            continue
        rows, own = drawn.flatten(1), tensor.detach().cpu().to(kind).flatten(1)
        lengths = torch.linalg.vector_norm(own, dim=1) / torch.linalg.vector_norm(rows, dim=1)
        out[name] = (rows * lengths[:, None]).reshape(tensor.shape).to(tensor)
    return out


@dataclass(frozen=True)
class Plane:
    """The places of a plane, which are counted: first the K networks themselves, then the G × G cells, those of one α
    after those of the one before.

    `vectors` [2, size] are the unit vectors from `points[origin]`; `xs` and `ys` [G] the cells' coordinates along them.
    """

    points: Tensor
    layout: Layout
    origin: int
    vectors: Tensor
    xs: np.ndarray
    ys: np.ndarray

    def __len__(self) -> int:
        return len(self.points) + len(self.xs) * len(self.ys)

    def cell(self, place: float) -> tuple[float, float] | None:
        """The coordinates of a cell, None for a network's own place."""
        number = int(place) - len(self.points)
        if number < 0:
            return None
        return float(self.xs[number // len(self.ys)]), float(self.ys[number % len(self.ys)])

    def write(self, place: float, out: Tensor) -> np.ndarray:
        """The weights at a place into `out` [size], a network's own bit for bit; returns the coordinates of a cell."""
        at = self.cell(place)
        if at is None:
            out.copy_(self.points[int(place)])
            return np.zeros(2)
        # As tensors: a number beyond the weights' type gives cells that are not finite, and no error.
        x, y = torch.tensor(at, dtype=out.dtype, device=out.device)
        torch.addcmul(self.points[self.origin], self.vectors[0], x, out=out)
        out.addcmul_(self.vectors[1], y)
        return np.array(at)

    def norms(self) -> np.ndarray:
        """‖w‖ at every cell, [G, G]: a quadratic form in the coordinates."""
        origin = self.points[self.origin]
        inner = weights.gram([*self.vectors, origin], torch.zeros_like(origin)).numpy()
        x, y = np.meshgrid(self.xs, self.ys, indexing="ij")
        squares = inner[2, 2] + 2 * (x * inner[0, 2] + y * inner[1, 2])
        squares += x * x * inner[0, 0] + y * y * inner[1, 1] + 2 * x * y * inner[0, 1]
        found: np.ndarray = np.sqrt(np.maximum(squares, 0.0))
        return found
