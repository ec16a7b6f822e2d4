"""Opens the plane that a command works on: through networks, a curve's control points or a run, or around a network.

Settings stop here: what is below takes a `Spanned`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import extra, subject, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint, epochs
from modeconn_cli.engine.networks.subject import Subject
from modeconn_cli.engine.paths import carrier, file, plane
from modeconn_cli.engine.paths.opened import OpenedPath
from modeconn_cli.engine.paths.path import Layout, WeightPath
from modeconn_cli.engine.paths.plane import Plane, Span
from modeconn_cli.engine.paths.statistics import StatisticsPolicy
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.curve import CurvePlaneSettings

Made = Literal["networks", "curve", "run", "random directions"]

Buffers = tuple[Mapping[str, Tensor], ...]


@dataclass(frozen=True)
class Spanned:
    """A plane, and the networks that it is made of as the control points of `opened`.

    `names` are theirs, `buffers` each one's own; `epochs` those of a run. `alphas` and `betas` [G] are the cells'
    positions in units of the plane's spans; `cosine` is that of the angle between the two unit vectors.
    """

    made: Made
    opened: OpenedPath
    names: tuple[str, ...]
    buffers: Buffers
    epochs: tuple[int, ...]
    span: Span
    plane: Plane
    alphas: np.ndarray
    betas: np.ndarray
    cosine: float

    def shares(self, place: float) -> np.ndarray:
        """How much of each network there is at a place, [K]; they sum to 1."""
        at, count = self.plane.cell(place), len(self.names)
        if at is None:
            own: np.ndarray = np.eye(count)[int(place)]
            return own
        mixed: np.ndarray = at[0] * self.span.blends[0] + at[1] * self.span.blends[1]
        mixed[self.span.origin] += 1 - mixed.sum()
        return mixed


class FollowingBuffers:
    """The buffers beside statistics of batch norm in which the networks differ: blended as the weights are."""

    def __init__(self, model: nn.Module, spanned: Spanned) -> None:
        self.names = carrier.following(model, spanned.buffers)
        self._model, self._spanned = model, spanned

    @torch.no_grad()
    def put(self, place: float) -> None:
        """Put those of a place into the model: a network's own at its own place."""
        shares = self._spanned.shares(place)
        for name in self.names:
            buffer = self._model.get_buffer(name)
            own = [each[name].to(buffer) for each in self._spanned.buffers]
            largest = own[int(np.argmax(shares))]
            if buffer.is_floating_point() and self._spanned.plane.cell(place) is not None:
                alike = torch.stack([each == own[0] for each in own]).all(0)  # also masks of -inf
                mixed = sum(float(share) * each for share, each in zip(shares, own, strict=True))
                largest = torch.where(alike, own[0], mixed)
            buffer.copy_(largest)


def open_plane(settings: CurvePlaneSettings, runtime: Runtime) -> Spanned:
    """The plane that the settings name, with its data. Raises InputError where there is none."""
    policy = StatisticsPolicy(settings.bn, settings.batch_size, settings.seed, settings.bn_samples)
    found: tuple[int, ...] = ()
    if settings.curve is not None:
        made: Made = "curve"
        opened, names, buffers = _of_curve(settings.curve, settings, policy, runtime)
    elif settings.run is not None:
        made = "run"
        opened, names, buffers, found = _of_run(settings.run, settings, policy, runtime)
    else:
        made = "networks" if settings.random_directions is None else "random directions"
        opened, names, buffers = _of_networks(settings, policy, runtime)
    opened.subject.check_independent()
    span, vectors = _spanned(opened, names, settings)
    if settings.random_directions is None:
        alphas, betas = (plane.ticks(span, k, settings.margin, settings.grid_points) for k in (0, 1))
    else:
        alphas = betas = np.linspace(-settings.reach, settings.reach, settings.grid_points)
    inner = weights.gram(list(vectors), torch.zeros_like(vectors[0])).numpy()
    path = opened.path
    laid = Plane(
        path.points, path.layout, span.origin, vectors, alphas * span.spans[0], betas * span.spans[1]
    )
    cosine = float(inner[0, 1] / np.sqrt(inner[0, 0] * inner[1, 1]))
    return Spanned(made, opened, names, buffers, found, span, laid, alphas, betas, cosine)


def _spanned(opened: OpenedPath, names: tuple[str, ...], settings: CurvePlaneSettings) -> tuple[Span, Tensor]:
    """The span of the networks, and its unit vectors [2, size]."""
    points = list(opened.path.points)
    if settings.random_directions is not None:
        return _random(opened, settings.random_directions)
    if settings.run is None:
        gram = np.zeros((3, 3))
        gram[1:, 1:] = weights.gram(points[1:], points[0]).numpy()[:-1, :-1]
        span = plane.through(gram, names)
    else:
        gram = np.zeros((len(points), len(points)))
        gram[:-1, :-1] = weights.gram(points[:-1], points[-1]).numpy()[:-1, :-1]
        span = plane.principal(gram)
    return span, plane.blended(points, span.origin, span.blends)


def _random(opened: OpenedPath, seed: int) -> tuple[Span, Tensor]:
    """Two random directions around the network, whose lengths are the spans."""
    layout, network = opened.path.layout, opened.path.control_points()[0]
    vectors = torch.empty(2, layout.size, dtype=layout.dtype, device=opened.path.points.device)
    for number, row in enumerate(vectors):
        layout.flatten(plane.random_direction(opened.subject.model, network, seed, number), row)
    lengths = [float(weights.square_norm(row).sqrt()) for row in vectors]
    if not all(lengths):
        raise InputError(
            f"'{opened.files[0]}' has no filters to move: every weight of two axes is 0 or frozen",
            "name another network",
        )
    for row, length in zip(vectors, lengths, strict=True):
        row /= length
    nothing = np.zeros((2, 1))
    return Span(0, nothing, np.zeros((1, 2)), np.zeros(1), (lengths[0], lengths[1])), vectors


def _of_curve(
    path: Path, settings: CurvePlaneSettings, policy: StatisticsPolicy, runtime: Runtime
) -> tuple[OpenedPath, tuple[str, ...], Buffers]:
    """A curve of three control points. Raises InputError for one of another number."""
    try:
        curve = file.read(path, settings, runtime)
    except InputError as error:
        if "--allow-nonfinite" in error.hint:  # through weights that are no numbers there is no plane
            raise InputError(error.message) from error
        raise
    if len(curve.points) != 3:
        raise InputError(
            f"'{path}' has {len(curve.points)} control points: a plane goes through three",
            "name three networks; mcx curve extract writes those of a curve",
        )
    curve, found = file.open_curve(curve, settings, runtime, "data")
    opened = OpenedPath(
        curve.path_of(found.model), found, (curve.file,), curve.buffers, policy, curve.foreign
    )
    names = tuple(f"control point {k}" for k in range(3))
    if len(curve.buffers) < 2:
        return opened, names, curve.buffers
    first, last = curve.buffers
    # Buffers between the ends of a curve are interpolated linearly in t: so are those of its middle.
    middle = {
        name: torch.lerp(t, last[name].to(t), 0.5) if t.is_floating_point() else t
        for name, t in first.items()
    }
    return opened, names, (first, middle, last)


def _of_networks(
    settings: CurvePlaneSettings, policy: StatisticsPolicy, runtime: Runtime
) -> tuple[OpenedPath, tuple[str, ...], Buffers]:
    """Three networks, or the one that random directions go out from."""
    read = [subject.read(path, settings, runtime) for path in settings.checkpoints]
    found = subject.open_networks(read, settings, runtime)
    return _of(found, list(found.checkpoints), policy)


def _of(
    found: Subject, read: list[Checkpoint], policy: StatisticsPolicy
) -> tuple[OpenedPath, tuple[str, ...], Buffers]:
    model, states = found.model, [each.state for each in read]
    path = WeightPath.through("polychain", [weights.parameters_of(model, state) for state in states], model)
    buffers = tuple(weights.buffers_of(model, state) for state in states)
    opened = OpenedPath(path, found, tuple(each.path for each in read), buffers, policy)
    return opened, tuple(tilde(each.path) for each in read), buffers


def _of_run(
    folder: Path, settings: CurvePlaneSettings, policy: StatisticsPolicy, runtime: Runtime
) -> tuple[OpenedPath, tuple[str, ...], Buffers, tuple[int, ...]]:
    """The checkpoints of a training, of which the last says which network and which data; read one by one."""
    files = epochs.in_range(folder, settings.epochs, runtime)
    *before, last = files.values()
    found = subject.open_networks([subject.read(last, settings, runtime)], settings, runtime)
    end, model = found.checkpoints[0], found.model
    layout, own = Layout(model), model.state_dict()
    points = torch.empty(len(files), layout.size, dtype=layout.dtype, device=runtime.device)
    buffers = list[Mapping[str, Tensor]]()
    for row, path in zip(points, (*before, last), strict=True):
        each = end
        if path != last:
            each = subject.read(path, settings, runtime)
            subject.check_said(each, found.arch, settings)
            each = subject.named_as(each, own, runtime)
            weights.check_alike(end.state, each.state, str(last), str(path))
            extra.check(end, each)
        layout.flatten(each.state, row)
        buffers.append(weights.buffers_of(model, each.state))
    opened = OpenedPath(
        WeightPath("polychain", points, layout), found, tuple(files.values()), tuple(buffers), policy
    )
    return opened, tuple(tilde(path) for path in files.values()), tuple(buffers), tuple(files)
