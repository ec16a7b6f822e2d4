"""Settings of every command that scores samples under the checkpoints of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modeconn_cli.engine.settings.base import Settings, setting
from modeconn_cli.engine.settings.shared import (
    ComputeSettings,
    DistributedSettings,
    FolderSettings,
    MeasuredDataSettings,
    ModelSettings,
    SplitName,
)


@dataclass(frozen=True, kw_only=True)
class EpochSettings(Settings):
    """Which checkpoints of a run."""

    start_epoch: int | None = setting(
        None, "first epoch", low=0, shown="the first one found", change="grow", group="epochs"
    )
    end_epoch: int | None = setting(
        None, "last epoch, included", low=0, shown="the last one found", change="grow", group="epochs"
    )
    epoch_step: int = setting(
        1, "epochs from one to the next", low=1, flags=("--step",), change="grow", group="epochs"
    )


@dataclass(frozen=True, kw_only=True)
class ScoringSettings(
    ModelSettings, MeasuredDataSettings, ComputeSettings, DistributedSettings, FolderSettings, EpochSettings
):
    """Every sample under the checkpoints of a run."""

    checkpoint: Path | None = setting(
        None,
        "one checkpoint instead of a folder of them; scoring one after the other into one folder adds up",
        change="free",
        group="epochs",
    )
    checkpoint_dir: Path | None = setting(
        None,
        "folder of the run's checkpoints (checkpoint-<e>.pt and the other documented names)",
        group="epochs",
    )
    allow_missing: bool = setting(
        False, "leave out missing epochs of the range, and say so", change="free", group="epochs"
    )
    seen_classes: bool = setting(
        False,
        "of a run that learnt classes task by task: samples of classes not seen by an epoch are NaN, losses are over "
        "the classes seen",
        group="tasks",
    )
    class_order: Path | None = setting(
        None, "the classes in the order they were learnt, .npy", shown="the run's own", group="tasks"
    )
    classes_per_task: int | None = setting(
        None, "classes added at a time", low=1, shown="the run's own, else 5", group="tasks"
    )
    epochs_per_task: int | None = setting(
        None, "epochs of a task", low=1, shown="the run's own, else 200", group="tasks"
    )
    split: SplitName = setting(
        "all-train", "which samples; all-train is the whole training file", group="data"
    )
    allow_nonfinite: bool = setting(
        False, "accept NaN and infinity in the weights", change="free", group="model"
    )
