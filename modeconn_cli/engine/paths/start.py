"""Where the free points of a curve begin."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from modeconn_cli.engine import keyed
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import weights
from modeconn_cli.engine.networks.weights import Weights
from modeconn_cli.engine.paths import file as files
from modeconn_cli.engine.settings.curve import CurveTrainSettings

INSIDE, OUTSIDE = 0.9, 1.1


def control_points(
    settings: CurveTrainSettings, first: Mapping[str, Tensor], last: Mapping[str, Tensor], runtime: Runtime
) -> list[Weights]:
    """All control points [K], the ends included, for endpoint parameters `first` and `last`."""
    count = settings.num_bends
    ends = dict(first), dict(last)
    if settings.init_method == "curve":
        return _from_curve(settings, ends, runtime)
    free = []
    for k in range(1, count - 1):
        alpha = settings.init_alpha if count == 3 and settings.init_method != "linear" else k / (count - 1)
        point = {name: torch.lerp(first[name], last[name], alpha) for name in first}
        if settings.init_method in ("perturbed", "sphere"):
            _add_noise(point, first, last, settings, k)
        if settings.init_method == "sphere":
            _rescale(point, first, last, INSIDE if settings.init_inside_sphere else OUTSIDE)
        free.append(point)
    return [ends[0], *free, ends[1]]


def _from_curve(
    settings: CurveTrainSettings, ends: tuple[Weights, Weights], runtime: Runtime
) -> list[Weights]:
    if settings.init_curve is None:
        raise SettingsError("--init-method curve needs a curve", "pass --init-curve FILE")
    curve = files.read(settings.init_curve, settings, runtime, allow_nonfinite=settings.allow_nonfinite)
    if len(curve.points) != settings.num_bends:
        raise SettingsError(
            f"'{settings.init_curve}' has {len(curve.points)} control points, --num-bends is {settings.num_bends}"
        )
    for k, point in enumerate(curve.points):
        weights.check_alike(ends[0], point, "endpoint 0", f"control point {k} of {settings.init_curve}")
    return [ends[0], *curve.points[1:-1], ends[1]]


def _add_noise(
    point: Weights,
    first: Mapping[str, Tensor],
    last: Mapping[str, Tensor],
    settings: CurveTrainSettings,
    k: int,
) -> None:
    """Per tensor, Gaussian noise with norm init_noise · ‖last − first‖ (elementwise-noise: that as its std)."""
    generator = torch.Generator().manual_seed(keyed.number(settings.seed, "init noise", k))
    for name, tensor in point.items():
        noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        size = settings.init_noise * float(torch.linalg.vector_norm(last[name] - first[name]))
        if settings.compat != "elementwise-noise":
            size /= max(float(torch.linalg.vector_norm(noise)), 1e-30)
        point[name] = tensor + size * noise


def _rescale(point: Weights, first: Mapping[str, Tensor], last: Mapping[str, Tensor], factor: float) -> None:
    """Per tensor, to `factor` times the mean norm of the endpoints' tensors."""
    for name, tensor in point.items():
        mean = (torch.linalg.vector_norm(first[name]) + torch.linalg.vector_norm(last[name])) / 2
        norm = torch.linalg.vector_norm(tensor)
        if norm > 0:
            point[name] = tensor * (factor * mean / norm)
