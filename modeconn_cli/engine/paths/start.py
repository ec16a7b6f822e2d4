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
from modeconn_cli.engine.paths.file import CurveFile

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
    free: Sequence[Weights], first: Mapping[str, Tensor], last: Mapping[str, Tensor], frozen: Collection[str]
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
    num_bends: int,
    frozen: Collection[str] = (),
) -> list[Weights]:
    """The control points [num_bends] of another curve, between these ends; `frozen` as for `control_points`.

    Raises SettingsError where it has another number of them, InputError where it is of another network.
    """
    if len(curve.points) != num_bends:
        raise SettingsError(
            f"'{curve.file}' has {len(curve.points)} control points, --num-bends is {num_bends}"
        )
    for k, point in enumerate(curve.points):
        weights.check_alike(first, point, "endpoint 0", f"control point {k} of {curve.file}")
    return [dict(first), *_straight(curve.points[1:-1], first, last, frozen), dict(last)]
