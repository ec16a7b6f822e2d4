"""Where the free points of a curve begin."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.linalg import vector_norm

from modeconn_cli.engine import keyed
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.weights import Weights
from modeconn_cli.engine.paths.elevation import elevation
from modeconn_cli.engine.paths.file import CurveFile
from modeconn_cli.engine.paths.path import Kind

INSIDE, OUTSIDE = 0.9, 1.1


def control_points(
    first: Mapping[str, Tensor],
    last: Mapping[str, Tensor],
    num_bends: int,
    method: Literal["linear", "biased", "perturbed", "sphere"],
    *,
    alpha: float,
    noise: float,
    elementwise: bool,
    inside_sphere: bool,
    seed: int,
    frozen: Collection[str] = (),
) -> list[Weights]:
    """All control points [num_bends], the ends included, for endpoint parameters `first` and `last`.

    Those that are `frozen` lie on the straight line whatever the method.

    `linear` spreads the free points over the straight line; the other methods put a single one at `alpha`.
    `perturbed` and `sphere` add, per tensor, Gaussian noise whose norm is `noise` times the endpoints' distance (with
    `elementwise`, whose standard deviation is that). `sphere` then gives every tensor 0.9 (`inside_sphere`) or 1.1
    times the endpoints' mean norm.
    """

    def between(a: Tensor, b: Tensor, place: float, generator: torch.Generator) -> Tensor:
        """One tensor of a free point."""
        tensor = torch.lerp(a, b, place)
        if method in ("perturbed", "sphere"):
            drawn = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            size = noise * float(vector_norm(b - a))
            if not elementwise:
                size /= max(float(vector_norm(drawn)), 1e-30)
            tensor = tensor + size * drawn
        if method == "sphere" and (norm := vector_norm(tensor)) > 0:
            mean = (vector_norm(a) + vector_norm(b)) / 2
            tensor = tensor * ((INSIDE if inside_sphere else OUTSIDE) * mean / norm)
        return tensor

    free = []
    for k in range(1, num_bends - 1):
        place = alpha if num_bends == 3 and method != "linear" else k / (num_bends - 1)
        generator = torch.Generator().manual_seed(keyed.number(seed, "init noise", k))
        free.append({name: between(first[name], last[name], place, generator) for name in first})
    return [dict(first), *_straight(free, first, last, frozen), dict(last)]


def _straight(
    free: Sequence[Mapping[str, Tensor]],
    first: Mapping[str, Tensor],
    last: Mapping[str, Tensor],
    frozen: Collection[str],
) -> list[Weights]:
    """The free points with their frozen parameters equally spaced between the ends."""
    return [
        {**point, **{name: torch.lerp(first[name], last[name], k / (len(free) + 1)) for name in frozen}}
        for k, point in enumerate(free, start=1)
    ]


def points_of_curve(
    curve: CurveFile,
    first: Mapping[str, Tensor],
    last: Mapping[str, Tensor],
    kind: Kind,
    num_bends: int,
    frozen: Collection[str] = (),
) -> list[Weights]:
    """The control points [num_bends] of another curve, between these ends; `frozen` as for `control_points`.

    Where there are more of them they make the same curve (`elevation`), up to the rounding of each. Raises
    SettingsError where there is none of that kind and number, InputError where it is of another network.
    """
    for k, point in enumerate(curve.points):
        weights.check_alike(first, point, "endpoint 0", f"control point {k} of {curve.file}")
    points: Sequence[Mapping[str, Tensor]] = [first, *curve.points[1:-1], last]
    if len(points) != num_bends:
        points = _elevated(curve, points, kind, num_bends)
    return [dict(first), *_straight(points[1:-1], first, last, frozen), dict(last)]


def _elevated(
    curve: CurveFile, points: Sequence[Mapping[str, Tensor]], kind: Kind, num_bends: int
) -> list[Weights]:
    """More control points of the same curve, each the sum in float64 of those that there are."""
    if curve.kind != kind and len(points) > 2:
        raise SettingsError(
            f"'{curve.file}' is a {curve.kind}, and no {kind} of {num_bends} control points is the same",
            f"use --curve {curve.kind}",
        )
    shares = torch.from_numpy(elevation(kind, len(points), num_bends))
    out: list[Weights] = [{} for _ in shares]
    for name, tensor in points[0].items():
        whole = torch.stack([point[name] for point in points])
        wide = torch.promote_types(whole.dtype, torch.float64)
        found = torch.tensordot(shares.to(wide), whole.to(wide), dims=1).to(tensor.dtype)
        for point, value in zip(out, found, strict=True):
            point[name] = value
    return out
