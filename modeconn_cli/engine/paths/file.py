"""Curve checkpoints: what is in one, and what it takes to make a path of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, models, weights
from modeconn_cli.engine.networks.checkpoints import About, Checkpoint, garipov
from modeconn_cli.engine.networks.models import recognise
from modeconn_cli.engine.networks.subject import Needed, Subject, open_described
from modeconn_cli.engine.networks.weights import Weights
from modeconn_cli.engine.paths.path import Kind, WeightPath
from modeconn_cli.engine.settings.shared import ModelSettings

SIMPLEX = "simplex"  # in the place of a curve's kind
BUFFERS = ("buffers", "end_buffers")  # entries of a file: endpoint 0's and endpoint 1's
ENTRIES = ("control_points", *BUFFERS, "extra_state", "curve", "num_bends", "foreign")


@dataclass(frozen=True)
class CurveFile:
    """A curve as its file holds it: control points [K], parameters only, and buffers.

    `buffers` are endpoint 0's and, unless an earlier version has written the file, endpoint 1's. A `foreign` curve has
    one set, as its last step has left them. `extra` is what endpoint 0's modules keep beside tensors.
    """

    file: Path
    kind: Kind
    points: list[Weights]
    buffers: tuple[Mapping[str, Tensor], ...]
    about: About
    foreign: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lacks_statistics(self) -> bool:
        """Whether the file holds no statistics of its ends: of a foreign curve, or where an end was trained."""
        said = self.about.settings or {}
        return self.foreign or not (said.get("fix_start", True) and said.get("fix_end", True))

    def named_as(self, wanted: Mapping[str, Any]) -> CurveFile:
        """The curve under the names of a network's state dict (`weights.renaming`)."""
        known = [*self.points[0], *(self.buffers[0] if self.buffers else ()), *self.extra]
        new = weights.renaming(known, wanted)
        return replace(
            self,
            points=[{new[name]: tensor for name, tensor in point.items()} for point in self.points],
            buffers=tuple({new.get(name, name): t for name, t in each.items()} for each in self.buffers),
            extra={new[name]: value for name, value in self.extra.items()},
        )

    def path_of(self, model: nn.Module) -> WeightPath:
        """The curve in the weight space of its network."""
        return WeightPath.through(self.kind, self.points, model)


def read(
    path: Path, settings: ModelSettings, runtime: Runtime, *, allow_nonfinite: bool = False
) -> CurveFile:
    """Read a curve checkpoint, ours or dnn-mode-connectivity's. Raises InputError where the file is neither."""
    checkpoint = checkpoints.read(path, state_key=settings.state_key, allow_nonfinite=allow_nonfinite)
    if garipov.is_curve(checkpoint.state):
        return _foreign(checkpoint, settings, runtime)
    if not checkpoint.is_curve:
        raise InputError(
            f"'{checkpoint.path}' has no curve points (expected 'control_points' or '*_0', '*_1', '*_2')",
            "pass the checkpoint of a trained curve",
        )
    if checkpoint.content.get("curve") == SIMPLEX:
        raise InputError(
            f"'{path}' holds a simplex, which is no path", "take a point of it: mcx curve extract --shares"
        )
    return _ours(checkpoint, path, checkpoint.content.get("curve"))


def read_simplex(path: Path, settings: ModelSettings, *, allow_nonfinite: bool = False) -> CurveFile:
    """Read the checkpoint of a simplex, whose vertices are the points: endpoint 0, endpoint 1, and what was added.

    Raises InputError where the file holds none.
    """
    checkpoint = checkpoints.read(path, state_key=settings.state_key, allow_nonfinite=allow_nonfinite)
    if checkpoint.content.get("curve") != SIMPLEX or not checkpoint.is_curve:
        raise InputError(f"'{path}' holds no simplex", "pass a checkpoint of mcx curve train --simplex")
    return _ours(checkpoint, path, "polychain")


def _ours(checkpoint: Checkpoint, path: Path, kind: Any) -> CurveFile:
    content = checkpoint.content
    _check(content, path, kind)
    return CurveFile(
        file=checkpoint.path,
        kind=kind,
        points=[dict(point) for point in content["control_points"]],
        buffers=tuple(content[name] for name in BUFFERS if name in content),
        about=checkpoint.about,
        foreign=content.get("foreign") is True,
        extra=content.get("extra_state", {}),
    )


def content(curve: CurveFile) -> dict[str, Any]:
    """The entries of a file of ours that hold a curve."""
    return {
        "control_points": curve.points,
        **dict(zip(BUFFERS, curve.buffers, strict=False)),
        "extra_state": dict(curve.extra),
        "curve": curve.kind,
        "num_bends": len(curve.points),
        **({"foreign": True} if curve.foreign else {}),
    }


def _check(content: Mapping[str, Any], path: Path, kind: Any) -> None:
    """Raise InputError for a kind that does not exist, points that differ in tensors, or buffers that are none."""
    points = content["control_points"]
    if kind not in ("bezier", "polychain"):
        raise InputError(f"'{path}' holds a curve of the unknown kind '{kind}'")
    shapes = [{name: tuple(tensor.shape) for name, tensor in point.items()} for point in points]
    if len(points) < 2 or any(shape != shapes[0] for shape in shapes):
        raise InputError(f"'{path}': its {len(points)} control points are not those of one network")
    for buffers in (content[name] for name in BUFFERS if name in content):
        if not isinstance(buffers, Mapping) or not all(isinstance(t, Tensor) for t in buffers.values()):
            raise InputError(f"'{path}': its buffers are not tensors")


def _foreign(checkpoint: Checkpoint, settings: ModelSettings, runtime: Runtime) -> CurveFile:
    """A curve of dnn-mode-connectivity under the names of the network that its shapes belong to."""
    points, buffers = garipov.split(checkpoint.state)
    known = recognise.recognised(checkpoint, settings, runtime)
    arch = models.architecture(settings, known.about, known.path)
    if settings.num_classes is None and known.about.num_classes is None:
        arch = recognise.with_classes_in_order(arch, points[0])
    with torch.device("meta"):
        model = models.build(arch)
    parameters = [name for name, _ in model.named_parameters()]
    points, buffers = garipov.renamed(points, buffers, model.state_dict(), parameters)
    kind: Kind = "bezier" if garipov.kind_of(checkpoint.state) == "bezier" else "polychain"
    return CurveFile(checkpoint.path, kind, points, (buffers,), known.about, foreign=True)


def open_curve(
    curve: CurveFile, settings: ModelSettings, runtime: Runtime, needed: Needed
) -> tuple[CurveFile, Subject]:
    """A curve under the names of its network, which holds endpoint 0, and the data that it was trained on."""
    buffers = curve.buffers[0] if curve.buffers else {}
    found = open_described(curve.about, curve.file, settings, runtime, needed, {**buffers, **curve.points[0]})
    curve = curve.named_as(found.model.state_dict())
    buffers = curve.buffers[0] if curve.buffers else {}
    state = {**found.model.state_dict(), **buffers, **curve.points[0], **curve.extra}
    weights.load_into(found.model, state, str(curve.file))
    return curve, found
