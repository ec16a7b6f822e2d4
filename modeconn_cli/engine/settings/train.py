"""Settings of `mcx train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modeconn_cli.engine.settings.base import Settings, setting
from modeconn_cli.engine.settings.shared import ComputeSettings, DataSettings, FolderSettings, NetworkSettings

Schedule = Literal["garipov", "cosine", "step", "incremental", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings):
    """How the weights are changed; shared by networks, curves and branches."""

    lr: float = setting(0.05, "learning rate", above=0, group="training")
    momentum: float = setting(0.9, "momentum (sgd)", low=0, high=1, group="training")
    wd: float = setting(5e-4, "weight decay", low=0, flags=("--weight-decay",), group="training")
    optimizer: Literal["sgd", "adam", "adamw"] = setting("sgd", "optimizer", group="training")
    schedule: Schedule = setting("garipov", "learning rate over the epochs", group="training")
    data_seed: int | None = setting(
        None, "seed of data order and augmentation", low=0, shown="the seed", group="training"
    )


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings(OptimizerSettings):
    """How long, and what is kept."""

    epochs: int = setting(200, "passes over the training images", low=0, group="training")
    save_freq: int = setting(
        50, "epochs between two checkpoints; 0 keeps the first and the last only", low=0, group="training"
    )
    eval_every: int = setting(
        1, "epochs between two evaluations on held-out images; 0: never", low=0, group="training"
    )


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Settings):
    """Classes that are added task by task."""

    classes_per_task: int | None = setting(
        None,
        "add so many classes at a time; losses are over the classes seen",
        low=1,
        shown="off",
        group="tasks",
    )
    epochs_per_task: int = setting(
        200, "epochs of a task; the learning rate restarts with each", low=1, group="tasks"
    )
    class_order: Path | None = setting(
        None,
        "the classes in the order they are added, .npy",
        shown="drawn from the seed",
        change="free",  # its content is compared
        group="tasks",
    )


@dataclass(frozen=True, kw_only=True)
class WatchSettings(Settings):
    """What is written down of every sample."""

    track_samples: bool = setting(
        False, "write a row per sample and step to sample_tracking_data_final.csv", group="samples"
    )
    track_format: Literal["csv", "npz"] = setting(
        "csv", "rows as documented, or columns of 32 bits in sample_tracking_data_final.npz", group="samples"
    )
    track_every: int = setting(1, "epochs from one that is tracked to the next", low=1, group="samples")
    memo_scores: Path | None = setting(
        None,
        "memorisation scores by sample id, .csv or .npz, for the tracking",
        change="free",  # its content is compared
        group="samples",
    )
    record_csl: bool = setting(
        False,
        "write every sample's training loss of each epoch to recorded_losses/ (augmented, in train mode)",
        group="samples",
    )


@dataclass(frozen=True, kw_only=True)
class TrainSettings(
    NetworkSettings,
    DataSettings,
    OptimizationSettings,
    TaskSettings,
    WatchSettings,
    ComputeSettings,
    FolderSettings,
):
    """Train networks, one per seed."""

    preset: Literal["incremental-cifar100", "incremental-digits"] | None = setting(
        None,
        "settings of a documented experiment; flags and files come before it",
        shown="none",
        change="free",
    )
    epochs: int | None = setting(  # type: ignore[assignment] # a number by the time it is trained
        None,
        "passes over the training images",
        low=0,
        shown="200; with tasks those of all tasks",
        group="training",
    )

    model: str | None = setting(
        None, "network: a registered name or pkg.mod:factory (runs that code)", shown="none", group="model"
    )
    num_classes: int | None = setting(None, "number of classes", low=1, shown="the data's", group="model")
    dataset: str | None = setting(
        None,
        "data set: a registered name, a folder of class folders, an .npz file or pkg.mod:factory (runs that code)",
        shown="none",
        group="data",
    )
    output_dir: Path | None = setting(
        None,
        "folder of the results; one folder seed<k> per seed is made in it",
        flags=("--save-dir",),
        keys=("output_root",),
        change="free",
        group="output",
    )
    seeds: tuple[int, ...] = setting(
        (), "one training run per seed, comma-listed", low=0, shown="--seed", change="free", group="training"
    )
    patience: int | None = setting(
        None,
        "stop after so many epochs without a better validation loss",
        low=1,
        shown="off",
        group="training",
    )
    min_delta: float = setting(
        0.0, "smallest decrease of the validation loss that counts", low=0, group="training"
    )
