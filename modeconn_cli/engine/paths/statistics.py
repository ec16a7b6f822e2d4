"""The network at a position of a path: its weights and the batch norm statistics that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from modeconn_cli.engine import keyed
from modeconn_cli.engine.datasets import Data, Samples
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import subject, weights
from modeconn_cli.engine.networks.subject import Needed, Subject
from modeconn_cli.engine.paths import file
from modeconn_cli.engine.paths.path import Carrier, Path
from modeconn_cli.engine.results.fingerprints import sha256
from modeconn_cli.engine.settings.curve import PathSettings
from modeconn_cli.engine.training import batch_norms, recompute_statistics


@dataclass(frozen=True)
class Source:
    """A path as the user gave it: a curve file, or two checkpoints with the straight line between them."""

    path: Path
    subject: Subject
    inputs: tuple[FilePath, ...]
    buffers: tuple[Mapping[str, Tensor], ...]  # endpoint 0's and, on a straight line, endpoint 1's

    @property
    def model(self) -> nn.Module:
        return self.subject.model

    @property
    def data(self) -> Data:
        return self.subject.data

    @property
    def has_batch_norm(self) -> bool:
        return bool(batch_norms(self.model))


def open_path(settings: PathSettings, runtime: Runtime, needed: Needed = "data") -> Source:
    """The path that the settings name, with its data."""
    if settings.curve_checkpoint is not None:
        if settings.bn == "lerp":
            raise SettingsError("--bn lerp is for straight lines", "use --bn recompute")
        curve = file.read(
            settings.curve_checkpoint, settings, runtime, allow_nonfinite=settings.allow_nonfinite
        )
        found = file.open_curve(curve, settings, runtime, needed)
        return Source(file.path_of(curve, found.model), found, (curve.path,), (curve.buffers,))
    read = [
        subject.read(
            path,
            settings,
            runtime,
            allow_nonfinite=settings.allow_nonfinite,
            hint="pass it as --curve-checkpoint",
        )
        for path in settings.ends
    ]
    return line_between(subject.open_networks(read, settings, runtime, needed))


def line_between(found: Subject) -> Source:
    """The straight line between the two networks of a subject."""
    states = [each.state for each in found.checkpoints]
    path = Path.through("line", [weights.parameters_of(found.model, state) for state in states], found.model)
    buffers = tuple(weights.buffers_of(found.model, state) for state in states)
    return Source(path, found, tuple(each.path for each in found.checkpoints), buffers)


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
        return {f"file {k}": sha256(path) for k, path in enumerate(self._source.inputs)}

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
