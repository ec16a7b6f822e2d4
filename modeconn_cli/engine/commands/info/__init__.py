"""`mcx info`: what a checkpoint holds, without running anything in it; with `--symmetries` its network is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from modeconn_cli.engine import names
from modeconn_cli.engine.commands.info.groups import Symmetries
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint, garipov, safe
from modeconn_cli.engine.networks.models import recognise
from modeconn_cli.engine.results import shards
from modeconn_cli.engine.results.fingerprints import sha256
from modeconn_cli.engine.results.records import Record
from modeconn_cli.engine.settings.base import tilde
from modeconn_cli.engine.settings.info import InfoSettings

FLOATS = ("F64", "F32", "F16", "BF16")  # as a safetensors header calls them


@dataclass(frozen=True)
class TensorInfo:
    """`finite` is None where the values were not read (safetensors: the header alone is)."""

    name: str
    shape: list[int]
    dtype: str
    finite: bool | None


@dataclass(frozen=True, kw_only=True)
class InfoResult(Record):
    """`model` says what the file says of itself, or what its keys fit (`recognised`); `symmetries` is an entry of the
    document only where they were asked for.
    """

    schema: ClassVar[str] = "mcx.info/1"

    checkpoint: str
    size: int
    sha256: str | None
    layout: str
    epoch: int | None
    weights_of_epoch: int | None  # where a task has ended with its best weights
    curve: str | None
    num_bends: int | None
    model: list[str]
    recognised: bool
    dataset: str | None
    num_tensors: int
    num_params: int
    has_optimizer: bool
    tensors: tuple[TensorInfo, ...]
    show_keys: int
    nonfinite_tensors: list[str] | None
    symmetries: Symmetries | None = None

    def fields(self) -> dict[str, Any]:
        found = super().fields()
        return found if self.symmetries else {k: v for k, v in found.items() if k != "symmetries"}


def run(settings: InfoSettings, runtime: Runtime) -> InfoResult | None:
    """Read a file's table of contents; of a safetensors file no tensor data is read but for its symmetries."""
    path = settings.checkpoint
    if runtime.dry_run:
        also = ", and the groups of exchangeable units of its network" if settings.symmetries else ""
        runtime.plan([f"describe {path}{also}"])
        return None
    if safe.has_header(path):
        result = _of_header(path, settings)
    else:
        checkpoint = checkpoints.read(path, state_key=settings.state_key, allow_nonfinite=True)
        result = _of_checkpoint(checkpoint, settings)
    if not settings.symmetries:
        return result
    # Networks and their graphs take a second to import, which a table of contents does without.
    from modeconn_cli.engine.commands.info.symmetries import symmetries

    return replace(result, symmetries=symmetries(settings, runtime))


def _of_header(path: Path, settings: InfoSettings) -> InfoResult:
    """A safetensors file or index: names, shapes and types of its header."""
    settings.refuse("on a safetensors file", "state_key")
    tensors = tuple(
        TensorInfo(name, shape, dtype, None) for name, (shape, dtype) in safe.contents(path).items()
    )
    kinds = {t.name: torch.float32 if t.dtype.startswith(("F", "BF")) else torch.int64 for t in tensors}
    shapes = {t.name: torch.empty(t.shape, dtype=kinds[t.name], device="meta") for t in tensors}
    fits = recognise.matches(shapes)
    return InfoResult(
        checkpoint=tilde(path),
        size=path.stat().st_size,
        sha256=None,
        layout="safetensors index" if shards.is_index(path) else "safetensors",
        epoch=None,
        weights_of_epoch=None,
        curve=None,
        num_bends=None,
        model=[arch.model for arch in fits],
        recognised=bool(fits),
        dataset=None,
        num_tensors=len(tensors),
        num_params=weights.count(weights.parameters_in(shapes)),
        has_optimizer=False,
        tensors=tensors,
        show_keys=settings.show_keys,
        nonfinite_tensors=None,
    )


def _of_checkpoint(checkpoint: Checkpoint, settings: InfoSettings) -> InfoResult:
    curve, points, state = _curve(checkpoint)
    parameters = replace(checkpoint, state=dict(state)).parameters()
    parameters = {name: tensor for name, tensor in parameters.items() if weights.is_continuous(tensor)}
    about = checkpoint.about
    best = about.weights_of_epoch
    says = about.model
    find = recognise.matches_in_order if curve else recognise.matches
    fits = [] if says else find(parameters if curve else state)
    implied = recognise.implied_data(fits[0]) if len(fits) == 1 else None
    said = about.data or implied
    tensors = tuple(
        TensorInfo(name, list(t.shape), str(t.dtype).removeprefix("torch."), checkpoints.finite(t))
        for name, t in state.items()
    )
    return InfoResult(
        checkpoint=tilde(checkpoint.path),
        size=names.file_of(checkpoint.path).stat().st_size,
        sha256=sha256(names.file_of(checkpoint.path)),
        layout=checkpoint.layout,
        epoch=checkpoint.epoch,
        weights_of_epoch=best if isinstance(best, int) else None,
        curve=curve,
        num_bends=points,
        model=[str(says)] if says else [arch.model for arch in fits],
        recognised=bool(fits),
        dataset=None if said is None else said.dataset,
        num_tensors=len(tensors),
        num_params=weights.count(parameters),
        has_optimizer=checkpoint.optimizer_state is not None or "optimizer_state" in checkpoint.content,
        tensors=tensors,
        show_keys=settings.show_keys,
        nonfinite_tensors=[t.name for t in tensors if not t.finite],
    )


def _curve(checkpoint: Checkpoint) -> tuple[str | None, int | None, Mapping[str, Tensor]]:
    """Kind and number of control points of a curve, and the tensors of one point; (None, None, state) else."""
    content: Mapping[str, Any] = checkpoint.content
    if checkpoint.is_curve:
        points = content["control_points"]
        return str(content.get("curve")), len(points), {**points[0], **content.get("buffers", {})}
    if garipov.is_curve(checkpoint.state):
        foreign, buffers = garipov.split(checkpoint.state)
        return garipov.kind_of(checkpoint.state), len(foreign), {**foreign[0], **buffers}
    return None, None, checkpoint.state
