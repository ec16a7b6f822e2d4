"""Curve checkpoints: what is in one, and what it takes to make a path of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from torch import Tensor, nn

from modeconn_cli.engine import checkpoints, models, weights
from modeconn_cli.engine.checkpoints import Checkpoint
from modeconn_cli.engine.errors import InputError
from modeconn_cli.engine.paths import Kind, Path
from modeconn_cli.engine.settings.shared import ModelSettings


@dataclass(frozen=True)
class CurveFile:
    """A curve as its file holds it: control points [K] (parameters only) and endpoint 0's buffers."""

    path: FilePath
    kind: Kind
    points: list[dict[str, Tensor]]
    buffers: Mapping[str, Tensor]
    about: Mapping[str, Any]
    epoch: int | None


def read(path: FilePath, allow_nonfinite: bool = False) -> CurveFile:
    """Read a curve checkpoint. Raises InputError where the file is not one."""
    return of_checkpoint(checkpoints.read(path, allow_nonfinite=allow_nonfinite))


def of_checkpoint(checkpoint: Checkpoint) -> CurveFile:
    if not checkpoint.is_curve:
        raise InputError(
            f"'{checkpoint.path}' has no curve points (expected an entry 'control_points')",
            "pass the checkpoint that mcx curve train wrote",
        )
    content = checkpoint.content
    return CurveFile(
        path=checkpoint.path,
        kind=content["curve"],
        points=[dict(point) for point in content["control_points"]],
        buffers=content.get("buffers", {}),
        about=checkpoint.about,
        epoch=checkpoint.epoch,
    )


def build(curve: CurveFile, settings: ModelSettings) -> tuple[nn.Module, models.Architecture]:
    """The network of a curve, holding endpoint 0."""
    stand_in = Checkpoint(curve.path, "curve", {}, about=curve.about)
    arch = models.architecture(settings, stand_in)
    model = models.build(arch)
    weights.load_into(model, {**model.state_dict(), **curve.buffers, **curve.points[0]}, str(curve.path))
    return model, arch


def path_of(curve: CurveFile, model: nn.Module) -> Path:
    return Path.through(curve.kind, curve.points, model)
