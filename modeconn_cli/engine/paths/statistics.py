"""The network at a position of a path: its weights and the batch norm statistics that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from modeconn_cli.engine import datasets, keyed
from modeconn_cli.engine.datasets import Data, Samples
from modeconn_cli.engine.errors import InputError, SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, models, weights
from modeconn_cli.engine.networks.checkpoints import Checkpoint
from modeconn_cli.engine.networks.models.recognise import recognised
from modeconn_cli.engine.paths import file as files
from modeconn_cli.engine.paths.path import Carrier, Path
from modeconn_cli.engine.results import records
from modeconn_cli.engine.settings.curve import PathSettings
from modeconn_cli.engine.training import batch_norms, recompute_statistics


@dataclass(frozen=True)
class Source:
    """A path as the user gave it: a curve file, or two checkpoints with the straight line between them."""

    path: Path
    model: nn.Module
    arch: models.Architecture
    about: Mapping[str, Any]
    inputs: tuple[FilePath, ...]
    buffers: tuple[Mapping[str, Tensor], ...]  # endpoint 0's and, on a straight line, endpoint 1's

    @property
    def has_batch_norm(self) -> bool:
        return bool(batch_norms(self.model))


def open_path(settings: PathSettings, runtime: Runtime) -> Source:
    """Read the path that the settings name. Raises SettingsError where they name none or two."""
    ends = [path for path in (settings.endpoint0, settings.endpoint1) if path is not None]
    if (settings.curve_checkpoint is None) == (len(ends) == 0) or len(ends) == 1:
        raise SettingsError(
            "give either a curve or two endpoints",
            "pass --curve-checkpoint FILE, or --endpoint0 and --endpoint1",
        )
    if settings.curve_checkpoint is not None:
        if settings.bn == "lerp":
            raise SettingsError("--bn lerp is for straight lines", "use --bn recompute")
        curve = files.read(
            settings.curve_checkpoint, settings, runtime, allow_nonfinite=settings.allow_nonfinite
        )
        model, arch = files.build(curve, settings)
        model.to(runtime.device)
        return Source(files.path_of(curve, model), model, arch, curve.about, (curve.path,), (curve.buffers,))
    first, last = (
        checkpoints.read(path, state_key=settings.state_key, allow_nonfinite=settings.allow_nonfinite)
        for path in ends
    )
    return line_between(settings, first, last, runtime)


def line_between(settings: PathSettings, first: Checkpoint, last: Checkpoint, runtime: Runtime) -> Source:
    for end in (first, last):
        if end.is_curve:
            raise InputError(f"'{end.path}' is a curve, not a network", "pass it as --curve-checkpoint")
    weights.check_alike(first.state, last.state, str(first.path), str(last.path))
    first = recognised(first, settings, runtime)
    arch = models.architecture(settings, first)
    model = models.build(arch)
    for end in (last, first):
        weights.load_into(model, end.state, str(end.path))
    model.to(runtime.device)
    states = [weights.parameters_of(model, end.state) for end in (first, last)]
    buffers = tuple(weights.buffers_of(model, end.state) for end in (first, last))
    path = Path.through("line", states, model)
    return Source(path, model, arch, first.about, (first.path, last.path), buffers)


def load_data(settings: PathSettings, source: Source, runtime: Runtime) -> Data:
    """The data the path was trained on, or that the settings name."""
    completed = datasets.merge_settings(settings, source.about)
    data = datasets.load(completed, runtime.device)
    models.check_fits(source.arch, data.name, data.input_shape, data.num_classes)
    return data


class Positioned:
    """A model that can be moved along a path with the statistics that a policy asks for."""

    def __init__(self, source: Source, settings: PathSettings, fit: Samples | None) -> None:
        self.model = source.model
        self._source = source
        self._carrier = Carrier(source.model, source.path)
        self._settings = settings
        self._statistics = fit
        if fit is not None and settings.bn_samples is not None and settings.bn_samples < len(fit):
            chosen = keyed.permutation(settings.seed, "statistics subset", len(fit))[: settings.bn_samples]
            self._statistics = fit.take(chosen.sort().values.to(fit.ids.device))
        self.passes = 0  # forward passes over batches that statistics have cost

    def identity(self) -> dict[str, str]:
        """What tells this path from others: its files by their content."""
        return {f"file {k}": records.sha256(path) for k, path in enumerate(self._source.inputs)}

    def move_to(self, t: float) -> None:
        """w(t) and its statistics."""
        self._carrier.move_to(t)
        policy = self._settings.bn
        if not self._source.has_batch_norm:
            return
        if policy == "recompute":
            assert self._statistics is not None
            self.passes += recompute_statistics(
                self.model, self._statistics, self._settings.batch_size, self._settings.seed
            )
        elif policy == "none":
            for layer in batch_norms(self.model):
                layer.reset_running_stats()
        else:
            self.set_buffers(t if policy == "lerp" else 0.0)

    def set_end(self, end: int) -> None:
        """An endpoint as its own file holds it: weights and statistics."""
        self._carrier.move_to(float(end))
        self.set_buffers(float(end))

    @torch.no_grad()
    def set_buffers(self, t: float) -> None:
        """The files' buffers: endpoint 0's at 0, endpoint 1's at 1, float ones interpolated between."""
        first, last = self._source.buffers[0], self._source.buffers[-1]
        for name, buffer in self.model.named_buffers():
            if name not in first:
                continue
            if buffer.is_floating_point():
                buffer.copy_(torch.lerp(first[name], last[name], t))
            else:
                buffer.copy_(first[name] if t < 1 else last[name])

    def describe(self) -> dict[str, Any]:
        """What a record says about the statistics."""
        if not self._source.has_batch_norm:
            return {"policy": "no batch norm"}
        if self._settings.bn != "recompute":
            return {"policy": self._settings.bn}
        return {
            "policy": self._settings.bn,
            "samples": len(self._statistics) if self._statistics is not None else None,
            "batch_size": self._settings.batch_size,
            "order_seed": self._settings.seed,
        }
