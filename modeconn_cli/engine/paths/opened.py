"""Opens the path that a command works on: a trained curve, or the straight lines between checkpoints.

Settings stop here: what is below takes an `OpenedPath`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import subject, weights
from modeconn_cli.engine.networks.completing import completed
from modeconn_cli.engine.networks.subject import Needed, Subject
from modeconn_cli.engine.paths import file
from modeconn_cli.engine.paths.file import CurveFile
from modeconn_cli.engine.paths.path import Kind, WeightPath
from modeconn_cli.engine.paths.statistics import NetworkOnPath, StatisticsPolicy
from modeconn_cli.engine.settings.path import PathSettings
from modeconn_cli.engine.settings.shared import NetworkSettings
from modeconn_cli.engine.symmetry import files as permutations
from modeconn_cli.engine.training import batch_norms

S = TypeVar("S", bound=NetworkSettings)


@dataclass(frozen=True)
class OpenedPath:
    """A path, the network that lies on it, and the data that network is measured on.

    `files` are what the user named, in order; `buffers` those of endpoint 0 and, where a file
    holds them, of endpoint 1, or those of every network of a chain. Where they are not
    those of the ends themselves the curve is `foreign` (`CurveFile.lacks_statistics`).
    """

    path: WeightPath
    subject: Subject
    files: tuple[Path, ...]
    buffers: tuple[Mapping[str, Tensor], ...]
    policy: StatisticsPolicy
    foreign: bool = False
    distance_unpermuted: float | None = None  # between the files, where the second's units are permuted

    @property
    def num_given(self) -> int:
        """How many networks the path is given by: two, or those of a chain."""
        return max(len(self.files), 2)

    @property
    def has_batch_norm(self) -> bool:
        return bool(batch_norms(self.subject.model))

    @property
    def batch_norm(self) -> str:
        """The batch norm policy in a plan's words."""
        if self.policy.bn == "repair":
            return "repair, of every layer"
        return self.policy.bn if self.has_batch_norm else "none in the network"

    @property
    def weight_decay(self) -> float:
        """The weight decay that the network at endpoint 0, or the curve, was trained with; 0 where nobody says."""
        return float(self.subject.about.wd or 0.0)

    def completed(self, settings: S) -> S:
        """The settings with what the first of the files has brought."""
        return completed(settings, self.subject.about, self.files[0])

    def unread(self, settings: PathSettings) -> tuple[str, ...]:
        """The settings, which are completed, that make no difference to this path."""
        return (*settings.unread(self.has_batch_norm), *settings.unflipped)

    def network(self) -> NetworkOnPath:
        """The network, to be moved along the path. It is the subject's model: there is one at a time."""
        data = self.subject.loaded
        return NetworkOnPath(
            self.subject.model, self.path, self.buffers, self.policy, None if data is None else data.fit
        )


def open_path(
    settings: PathSettings, runtime: Runtime, needed: Needed = "data", shares: Sequence[float] = ()
) -> OpenedPath:
    """The path that the settings name, with its data; with `shares` of a simplex's vertices that point of it alone."""
    policy = StatisticsPolicy(settings.bn, settings.batch_size, settings.seed, settings.bn_samples)
    nonfinite = settings.allow_nonfinite
    if settings.curve_checkpoint is not None:
        if settings.bn == "lerp":
            raise SettingsError("--bn lerp is for straight lines", "use --bn recompute")
        if shares:
            curve = _point_of(
                file.read_simplex(settings.curve_checkpoint, settings, allow_nonfinite=nonfinite), shares
            )
        else:
            curve = file.read(settings.curve_checkpoint, settings, runtime, allow_nonfinite=nonfinite)
        curve, found = file.open_curve(curve, settings, runtime, needed)
        _check(found)
        opened = OpenedPath(
            curve.path_of(found.model), found, (curve.file,), curve.buffers, policy, curve.lacks_statistics
        )
        _check_ends(opened)
        return opened
    hint = "pass it as --curve-checkpoint"
    read = [
        subject.read(path, settings, runtime, allow_nonfinite=nonfinite, hint=hint) for path in settings.ends
    ]
    found = subject.open_networks(read, settings, runtime, needed)
    _check(found)
    line = line_between(found, policy)
    _say_equal(line, runtime)
    if settings.permutation is None:
        return line
    permuted = line_between(permutations.with_second_permuted(found, settings.permutation, runtime), policy)
    return replace(permuted, distance_unpermuted=line.path.endpoint_distance())


def _point_of(simplex: CurveFile, shares: Sequence[float]) -> CurveFile:
    """The path of a single point: the blend of a simplex's vertices.

    Raises SettingsError for another number of shares.
    """
    if len(shares) != len(simplex.points):
        raise SettingsError(
            f"--shares has {len(shares)} numbers, '{simplex.file}' has {len(simplex.points)} vertices",
            "endpoint 0, endpoint 1, and what was added, in this order",
        )
    blend = {name: torch.zeros_like(tensor) for name, tensor in simplex.points[0].items()}
    for share, vertex in zip(shares, simplex.points, strict=True):
        for name, tensor in blend.items():
            tensor.add_(vertex[name], alpha=share / sum(shares))
    return replace(simplex, points=[blend, blend])


def _check(found: Subject) -> None:
    if found.loaded is not None:
        found.check_independent()


def _check_ends(curve: OpenedPath) -> None:
    """Raises InputError where layers are to be repaired and the file lacks the statistics of an end."""
    if curve.policy.bn == "repair" and curve.has_batch_norm and (curve.foreign or len(curve.buffers) < 2):
        raise InputError(
            f"'{curve.files[0]}' does not hold both ends' statistics of batch norm, which --bn repair begins from",
            "use --bn recompute",
        )


def _say_equal(chain: OpenedPath, runtime: Runtime) -> None:
    """Warn of a network of a chain that comes twice in a row: what lies between has no length."""
    points = chain.path.points
    for k in range(1, len(points)):
        if len(points) > 2 and torch.equal(points[k - 1], points[k]):
            runtime.warn(f"'{chain.files[k - 1]}' and '{chain.files[k]}', which follow each other, are equal")


def line_between(found: Subject, policy: StatisticsPolicy) -> OpenedPath:
    """The straight line between the two checkpoints of a subject, or the chain of lines through more of them."""
    model, states = found.model, [each.state for each in found.checkpoints]
    kind: Kind = "line" if len(states) == 2 else "polychain"
    path = WeightPath.through(kind, [weights.parameters_of(model, state) for state in states], model)
    buffers = tuple(weights.buffers_of(model, state) for state in states)
    return OpenedPath(path, found, tuple(each.path for each in found.checkpoints), buffers, policy)
