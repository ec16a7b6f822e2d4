"""Settings of `mcx train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from modeconn_cli.engine.errors import SettingsError
from modeconn_cli.engine.settings.base import Panel, Settings, like, setting, without_effect
from modeconn_cli.engine.settings.shared import (
    PATRINI,
    ComputeSettings,
    DataSettings,
    FigureSettings,
    FolderSettings,
    NetworkSettings,
    TransformName,
)

Schedule = Literal["garipov", "cosine", "linear", "step", "incremental", "constant"]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings):
    """How the weights are changed; shared by networks, curves and branches."""

    panel: ClassVar[Panel] = "Training"

    lr: float = setting(0.05, "learning rate", above=0)
    momentum: float = setting(0.9, "momentum (sgd)", low=0, high=1, needs=("optimizer", "sgd"))
    wd: float = setting(5e-4, "weight decay", low=0, flags=("--weight-decay",))
    optimizer: Literal["sgd", "adam", "adamw"] = setting("sgd", "optimizer")
    schedule: Schedule = setting("garipov", "learning rate over the epochs")
    data_seed: int | None = setting(
        None, "seed of data order and augmentation", low=0, shown="the seed", rare=True
    )


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings(OptimizerSettings):
    """How long, and what is kept."""

    panel: ClassVar[Panel] = "Training"

    epochs: int = setting(200, "passes over the training images", low=0)
    save_freq: int = setting(50, "epochs between checkpoints; 0: the first and last only", low=0)
    eval_every: int = setting(
        1, "epochs between two evaluations on held-out images; 0: never", low=0, rare=True
    )


@dataclass(frozen=True, kw_only=True)
class TaskSettings(Settings):
    """Classes that are added task by task."""

    classes_per_task: int | None = setting(
        None, "add so many classes at a time; losses are over the classes seen", low=1, shown="off"
    )
    epochs_per_task: int = setting(
        200,
        "epochs of a task; the learning rate restarts with each",
        low=1,
        needs=("classes_per_task",),
        rare=True,
    )
    class_order: Path | None = setting(
        None,
        "the classes in the order they are added, .npy",
        shown="drawn from the seed",
        needs=("classes_per_task",),
        rare=True,
        change="free",  # its content is compared
    )


@dataclass(frozen=True, kw_only=True)
class WatchSettings(Settings):
    """What is written down of every sample."""

    track_samples: bool = setting(False, "a row per sample and step: sample_tracking_data_final.csv")
    track_format: Literal["csv", "npz"] = setting(
        "csv",
        "rows as documented, or columns of 32 bits in sample_tracking_data_final.npz",
        needs=("track_samples",),
        rare=True,
    )
    track_every: int = setting(
        1, "epochs from one that is tracked to the next", low=1, needs=("track_samples",), rare=True
    )
    memo_scores: Path | None = setting(
        None,
        "memorisation scores by sample id, .csv or .npz, for the tracking",
        needs=("track_samples",),
        change="free",  # its content is compared
        rare=True,
    )
    record_csl: bool = setting(
        False,
        "every sample's training loss of each epoch (augmented, in train mode): recorded_losses/",
    )


@dataclass(frozen=True, kw_only=True)
class TrainSettings(
    NetworkSettings,
    DataSettings,
    OptimizationSettings,
    TaskSettings,
    WatchSettings,
    ComputeSettings,
    FigureSettings,
    FolderSettings,
):
    """Train networks, one per seed."""

    preset: Literal["incremental-cifar100", "incremental-digits"] | None = setting(
        None,
        "a documented experiment; flags and files overrule it",
        shown="none",
        change="free",
    )
    epochs: int | None = setting(  # type: ignore[assignment] # a number by the time it is trained
        None, "passes over the images", low=0, shown="200, or the tasks'"
    )
    model: str = like(
        NetworkSettings,
        "model",
        shown="none",
        missing=("no network", "pass --model NAME, or pkg.mod:factory for your own"),
    )
    num_classes: int | None = like(NetworkSettings, "num_classes", shown="the data's")
    dataset: str | None = like(
        DataSettings,
        "dataset",
        help="registered name, folder of class folders, .npz or pkg.mod:factory, whose code runs",
        shown="none",
    )
    transform: TransformName | None = like(
        DataSettings,
        "transform",
        help="normalisation, augmentation; --mean, --std: other statistics",
        shown="the data's",
        rare=False,
    )
    label_noise: float | None = like(
        DataSettings, "label_noise", help="chance that a training label is flipped", shown="0", rare=False
    )
    label_seed: int | None = like(DataSettings, "label_seed", shown="the seed", needs=("label_noise",))
    noise_kind: Literal["uniform", "asymmetric", "instance"] | None = like(
        DataSettings, "noise_kind", shown="uniform", needs=("label_noise",)
    )
    noise_map: str | None = like(
        DataSettings,
        "noise_map",
        shown=PATRINI,
        needs=("noise_kind", "asymmetric"),
    )
    noise_file: Path | None = like(DataSettings, "noise_file", shown="none")
    figure_format: Literal["png", "pdf", "svg"] = like(FigureSettings, "figure_format", rare=True)  # of tasks
    dpi: int = like(FigureSettings, "dpi", rare=True)
    output_dir: Path = like(
        FolderSettings, "output_dir", help="folder of the results; one folder seed<k> per seed is made in it"
    )
    seed: int = like(ComputeSettings, "seed", everywhere=False)
    seeds: tuple[int, ...] = setting((), "a run per seed, comma-listed", low=0, shown="--seed", change="free")
    patience: int | None = setting(
        None,
        "stop after so many epochs without a better validation loss",
        low=1,
        shown="off",
        panel="Training",
    )
    min_delta: float = setting(
        0.0,
        "smallest decrease of the validation loss that counts",
        low=0,
        needs=("patience",),
        panel="Training",
        rare=True,
    )

    @property
    def undrawn(self) -> str:
        return "without --classes-per-task" if self.classes_per_task is None else ""

    def check(self) -> None:
        super().check()
        if self.classes_per_task is not None and self.patience is not None:
            raise SettingsError(
                "--patience would end the run within its first task", "leave it out of incremental training"
            )

    def idle(self) -> dict[str, str]:
        listed = bool(self.seeds) and not self.flips_by_seed
        return super().idle() | without_effect(listed, "with --seeds", "seed")
