"""What a score begins with: the checkpoints of a run by epoch, their network, and the samples that are scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modeconn_cli.engine import names
from modeconn_cli.engine.datasets import Data, Samples
from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.machine.runtime import Runtime
from modeconn_cli.engine.networks import checkpoints, completing, models, subject, weights
from modeconn_cli.engine.networks.checkpoints import About, Checkpoint
from modeconn_cli.engine.networks.checkpoints.epochs import in_range
from modeconn_cli.engine.networks.checkpoints.trainers import labelled_epoch
from modeconn_cli.engine.networks.independent import TRIED, check_independent
from modeconn_cli.engine.registry import CHECKPOINT_SCHEMA, todays_name
from modeconn_cli.engine.samples.seen import Seen, seen_classes
from modeconn_cli.engine.settings.scoring import ScoringSettings


def todays_identity(then: dict[str, Any]) -> dict[str, Any]:
    """What `identity` said when a job began; its network has the name of today."""
    network = then.get("network")
    if not isinstance(network, dict):
        return then
    name = todays_name(str(network.get("model")), then.get("schema"))
    return {**then, "schema": CHECKPOINT_SCHEMA, "network": {**network, "model": name}}


@dataclass(frozen=True)
class ScoredRun:
    """A network that takes the weights of one checkpoint of a run after the other, and the samples that are scored.

    `checkpoints` are by epoch, ascending, `initial` is the one of epoch 0 in their folder, where there is one; `about`
    is what the first says of itself. `seen` says which samples, and over which classes, the present epoch is scored.
    """

    checkpoints: dict[int, Path]
    model: nn.Module
    arch: models.Architecture
    data: Data
    samples: Samples
    about: About
    seen: Seen
    read: Callable[[Path], Checkpoint]
    initial: Path | None = None

    @property
    def first(self) -> Path:
        """The checkpoint that speaks for the run."""
        return next(iter(self.checkpoints.values()))

    def identity(self) -> dict[str, Any]:
        """What has to be the same for all epochs of a job, as JSON holds it."""
        network: dict[str, Any] = json.loads(json.dumps(self.arch.describe()))
        return {
            "schema": CHECKPOINT_SCHEMA,
            "network": network,
        }

    def take_up(self, epoch: int) -> None:
        """Give the network an epoch's weights. Raises InputError where they do not fit."""
        path = self.checkpoints[epoch]
        weights.load_into(self.model, self.read(path).whole, str(path))
        self.seen.begin(epoch)

    def initial_parameters(self) -> dict[str, Tensor] | None:
        """The parameters at initialisation, float64 on the CPU; None where no checkpoint of epoch 0 is there.

        Raises InputError where they do not fit.
        """
        if self.initial is None:
            return None
        named = weights.named_as(self.read(self.initial).whole, self.model.state_dict())
        weights.check_fits(self.model, named, str(self.initial))
        return {name: named[name].double().cpu() for name, _ in self.model.named_parameters()}


def open_run(settings: ScoringSettings, runtime: Runtime) -> ScoredRun:
    """The checkpoints that settings name, with the data that they were trained on.

    Raises SettingsError for samples that are not there.
    """
    chosen = _checkpoints(settings, runtime)

    def read(path: Path) -> Checkpoint:
        return subject.read(path, settings, runtime, allow_nonfinite=settings.allow_nonfinite)

    first = read(next(iter(chosen.values())))
    found = subject.open_networks([first], settings, runtime, "data without held-out images")

    def read_alike(path: Path) -> Checkpoint:
        subject.check_said(other := read(path), found.arch, settings)
        return other

    model, data, own = found.model.eval(), found.data, found.about.tasks
    samples = data.split(settings.split)
    if len(samples) == 0:
        raise SettingsError(
            f"data set '{data.name}' has no samples in split '{settings.split}'", "choose --split"
        )
    check_independent(model, next(iter(samples.batches(TRIED))).images, data.num_classes)
    settings = completing.completed(settings, found.about, first.path)
    seen = seen_classes(settings, own, samples.labels, data.num_classes, runtime)
    initial = _initial(settings, first.path)
    return ScoredRun(chosen, model, found.arch, data, samples, found.about, seen, read_alike, initial)


def _initial(settings: ScoringSettings, first: Path) -> Path | None:
    """The checkpoint of epoch 0 of the same run and folder, by its name: other trainers' first epoch may be their 0."""
    place, entry = names.file_and_entry(first)
    folder = place.parent if settings.checkpoint_dir is None else names.file_of(settings.checkpoint_dir)
    known = (path for path in sorted(folder.iterdir()) if names.epoch_of(path) == 0)
    found = [path for path in known if names.run_of(path) == names.run_of(place)]
    return names.with_entry(found[0], entry) if len(found) == 1 and settings.pattern is None else None


def _checkpoints(settings: ScoringSettings, runtime: Runtime) -> dict[int, Path]:
    """epoch -> checkpoint, ascending: the one that the settings name, or the range of a folder."""
    path, folder = settings.checkpoint, settings.checkpoint_dir
    if path is None:
        assert folder is not None, "settings name one or the other"
        return in_range(folder, settings, runtime)
    epoch = names.epoch_of(path)
    if epoch is None:
        epoch = checkpoints.read(path, state_key=settings.state_key, allow_nonfinite=True).epoch
    if epoch is None:
        epoch = labelled_epoch(path.name)
    return {epoch or 0: path}
