"""What a score begins with: the checkpoints of a run by epoch, their network, and the samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from modeconn_cli.engine import names
from modeconn_cli.engine.datasets import Data, Samples
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, models, subject, weights
from modeconn_cli.engine.networks.checkpoints import About
from modeconn_cli.engine.networks.checkpoints.epochs import in_range
from modeconn_cli.engine.samples.per_sample import check_independent
from modeconn_cli.engine.settings.scoring import ScoringSettings

TRIED = 32  # samples whose independence is tried


@dataclass(frozen=True)
class Subject:
    """A network that takes the weights of one checkpoint after the other, and the samples that are scored."""

    model: nn.Module
    arch: models.Architecture
    data: Data
    samples: Samples
    about: About  # of the first checkpoint

    def identity(self) -> dict[str, Any]:
        """What has to be the same for all epochs of a job, as JSON holds it."""
        network: dict[str, Any] = json.loads(json.dumps(self.arch.describe()))
        return {"network": network, "data set": self.data.name, "set of samples": self.samples.fingerprint()}

    def load(self, path: Path, settings: ScoringSettings, runtime: Runtime) -> None:
        """Take the weights of a checkpoint. Raises InputError where they do not fit."""
        found = subject.read(path, settings, runtime, allow_nonfinite=settings.allow_nonfinite)
        weights.load_into(self.model, found.state, str(path))


def chosen_checkpoints(
    settings: ScoringSettings, runtime: Runtime, run_idx: int | None = None
) -> dict[int, Path]:
    """epoch -> checkpoint, ascending: the one that the settings name, or the range of a folder."""
    if settings.checkpoint is None:
        return series(settings, runtime, run_idx)
    epoch = names.epoch_of(settings.checkpoint)
    if epoch is None:
        epoch = checkpoints.read(
            settings.checkpoint, state_key=settings.state_key, allow_nonfinite=True
        ).epoch
    return {epoch or 0: settings.checkpoint}


def series(settings: ScoringSettings, runtime: Runtime, run_idx: int | None = None) -> dict[int, Path]:
    """epoch -> checkpoint, ascending, of the range that the settings name."""
    folder = settings.checkpoint_dir
    assert folder is not None
    return in_range(folder, settings, runtime, run_idx=run_idx, lenient=settings.allow_missing)


def open_subject(settings: ScoringSettings, path: Path, runtime: Runtime) -> Subject:
    """The network of a checkpoint with the data it was trained on, or what the settings name."""
    read = subject.read(path, settings, runtime, allow_nonfinite=settings.allow_nonfinite)
    found = subject.open_networks([read], settings, runtime, "data without held-out images")
    data = found.data
    samples = data.split(settings.split)
    if len(samples) == 0:
        raise SettingsError(
            f"data set '{data.name}' has no samples in split '{settings.split}'", "choose --split"
        )
    scored = Subject(found.model.eval(), found.arch, data, samples, found.about)
    check_independent(scored.model, next(iter(samples.batches(TRIED))).images)
    return scored
